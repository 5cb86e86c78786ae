package disk_test

import (
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

func blank(size, class string) *diskv1.VirtualDiskSpec {
	return &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size, StorageClassName: class}}
}

// defaultIs has Kubernetes' default be another one.
func (h *house) defaultIs(name string) {
	h.t.Helper()
	_, err := diskv1.NewStorageClassServiceClient(h.conn).SetDefaultStorageClass(h.t.Context(), &diskv1.SetDefaultStorageClassRequest{Name: name})
	check(h.t, err)
}

func TestStorageClassesAreTold(t *testing.T) {
	h := newHouse(t)
	client := diskv1.NewStorageClassServiceClient(h.conn)
	for _, marked := range []string{"local", "local-wffc", "foreign", ""} {
		h.defaultIs(marked)
		classes, err := client.ListStorageClasses(t.Context(), &diskv1.ListStorageClassesRequest{})
		check(t, err)
		if len(classes.GetItems()) != 2 {
			t.Fatalf("classes are %v", classes)
		}
		for _, class := range classes.GetItems() {
			if class.GetIsDefault() != (class.GetName() == marked) {
				t.Errorf("%q is the default, and %v is shown", marked, class)
			}
		}
	}
}

func TestDiskThatNamesNoClassGetsTheDefault(t *testing.T) {
	h := newHouse(t)
	check(t, h.apply("early", blank("1Mi", "")))
	if class := h.awaitDisk("early", diskv1.DiskPhase_Ready, "StorageClassReady", "").GetStatus().GetStorageClassName(); class != "local" {
		t.Errorf("from the start the default is %q", class)
	}
	check(t, h.apply("unknown", blank("1Mi", "gold")))
	h.awaitDisk("unknown", diskv1.DiskPhase_Pending, "StorageClassReady", `there is no storage class "gold": name one of local, local-wffc`)

	h.defaultIs("")
	check(t, h.apply("late", blank("1Mi", "")))
	h.awaitDisk("late", diskv1.DiskPhase_Pending, "StorageClassReady", "no storage class is the default: name one of local, local-wffc")
	h.defaultIs("foreign")
	h.awaitDisk("late", diskv1.DiskPhase_Pending, "StorageClassReady",
		`the cluster's default storage class is not one for disks: "foreign": name one of local, local-wffc`)
	h.defaultIs("local-wffc")
	h.awaitDisk("late", diskv1.DiskPhase_WaitForFirstConsumer, "Ready", "The disk is made on the node of the first VM that runs with it.")
	h.awaitDisk("early", diskv1.DiskPhase_Ready, "StorageClassReady", "") // it has what it has
}

func TestDefaultOfTheConfigurationGoesFirst(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.opts.DefaultStorageClass = "local-wffc"
	h.open()
	check(t, h.apply("root", blank("1Mi", "")))
	h.awaitDisk("root", diskv1.DiskPhase_WaitForFirstConsumer, "StorageClassReady", "")
	h.stop()
	h.opts.DefaultStorageClass = "gold"
	h.open()
	h.awaitDisk("root", diskv1.DiskPhase_Pending, "StorageClassReady",
		`the configuration's default storage class does not exist: "gold": name one of local, local-wffc`)
}
