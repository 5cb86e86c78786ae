package disk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve/servetest"
	"orlop.dev/services/disk"
)

const blobBytes = 8 << 20

// house is a disk service and a stand-in for the image service.
type house struct {
	t      *testing.T
	opts   disk.Options
	images *resource.Collection[*imagev1.VirtualImage]
	files  *importService
	blob   *imagev1.Blob // what the image service answers to a claim

	// Of the present instance of the service:
	stop  func()
	conn  *grpc.ClientConn
	disks *resource.Client[*diskv1.VirtualDisk]
}

func newHouse(t *testing.T) *house {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: make setup installs it")
	}
	blob := filepath.Join(t.TempDir(), "blob")
	check(t, os.WriteFile(blob, make([]byte, blobBytes), 0o600))
	store := etcdtest.Start(t)
	answer := &imagev1.Blob{Digest: "sha256:0123", Path: blob, Format: "raw", VirtualBytes: blobBytes}
	images, imagePart := servetest.StandIn[*imagev1.VirtualImage](t, store, &imagev1.VirtualImageService_ServiceDesc, answer)
	_, clusterPart := servetest.StandIn[*imagev1.ClusterVirtualImage](t, store, &imagev1.ClusterVirtualImageService_ServiceDesc, answer)
	files := newImportService(answer)
	others, _ := servetest.Host(t, imagePart, clusterPart, files.part())
	h := &house{t: t, images: images, files: files, blob: answer, opts: disk.Options{Etcd: store, Images: others, Dir: t.TempDir(), Logger: servetest.Quiet()}}
	h.open()
	return h
}

// open starts an instance of the service.
func (h *house) open() {
	h.t.Helper()
	service, err := disk.New(h.opts)
	check(h.t, err)
	h.conn, h.stop = servetest.Host(h.t, service.Part())
	h.disks = servetest.ClientOf[*diskv1.VirtualDisk](h.t, h.conn)
}

func key(name string) resource.Key { return resource.Key{Namespace: "default", Name: name} }

func (h *house) create(name, size string) error {
	return h.apply(name, &diskv1.VirtualDiskSpec{
		PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size},
		DataSource: &diskv1.DiskDataSource{
			Type:      imagev1.DataSourceType_ObjectRef,
			ObjectRef: &diskv1.DiskObjectRef{Kind: diskv1.DiskObjectRefKind_VirtualImage, Name: "ubuntu"},
		},
	})
}

// apply makes a disk, or changes its spec.
func (h *house) apply(name string, spec *diskv1.VirtualDiskSpec) error {
	disk := &diskv1.VirtualDisk{Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
	_, err := h.disks.Update(h.t.Context(), disk, resource.UpdateOptions{AllowMissing: true})
	return err
}

// tell writes an image's status as the image service would.
func (h *house) tell(status *imagev1.VirtualImageStatus) {
	h.t.Helper()
	_, err := h.images.UpdateStatus(h.t.Context(), key("ubuntu"), "", status)
	check(h.t, err)
}

// awaitDisk waits for a phase and the message of a condition.
func (h *house) awaitDisk(name string, phase diskv1.DiskPhase_Value, conditionType, message string) *diskv1.VirtualDisk {
	h.t.Helper()
	return servetest.Await(h.t, h.disks, key(name), "was "+phase.String()+": "+message, func(d *diskv1.VirtualDisk) bool {
		c := condition.Find(d.GetStatus().GetConditions(), conditionType)
		return d.GetStatus().GetPhase() == phase && c.GetMessage() == message
	})
}

func (h *house) claim(name, machine string, active bool) (*diskv1.Volume, error) {
	volume := new(diskv1.Volume)
	return volume, h.disks.Claim(h.t.Context(), key(name), &metav1.Holder{
		Kind: "VirtualMachine", Namespace: "default", Name: machine, Uid: machine + "-uid", Active: active,
	}, volume)
}

func TestDiskFromAnImageFromItsFirstWaitToItsEnd(t *testing.T) {
	h := newHouse(t)
	check(t, h.create("root", ""))
	h.awaitDisk("root", diskv1.DiskPhase_Pending, "Ready", "waits for VirtualImage ubuntu, which does not exist")

	image := resource.New[*imagev1.VirtualImage](h.images.Kind())
	image.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: "ubuntu"}
	_, err := h.images.Create(t.Context(), image)
	check(t, err)
	h.tell(&imagev1.VirtualImageStatus{Phase: imagev1.ImagePhase_Provisioning, Progress: "41.0%"})
	h.awaitDisk("root", diskv1.DiskPhase_Pending, "Ready", "waits for VirtualImage ubuntu: Provisioning, 41.0%")
	if _, err := h.claim("root", "web", true); !fault.Is(err, fault.NotReady) {
		t.Errorf("a disk without data is used: %v", err)
	}
	h.tell(&imagev1.VirtualImageStatus{
		Phase: imagev1.ImagePhase_Ready, Progress: "100%", Size: &imagev1.ImageSize{UnpackedBytes: "8388608"},
	})
	made := h.awaitDisk("root", diskv1.DiskPhase_Ready, "Ready", "")
	if status := made.GetStatus(); status.GetCapacity() != "8Mi" || status.GetStorageClassName() != "local" {
		t.Errorf("status is %v", status)
	}
	awaitFree(t, h)

	volume, err := h.claim("root", "web", true)
	check(t, err)
	if _, err := os.Stat(volume.GetPath()); err != nil || volume.GetFormat() != "qcow2" || volume.GetVirtualBytes() != blobBytes {
		t.Errorf("volume is %v, %v", volume, err)
	}
	if _, err := h.claim("root", "other", true); fault.ReasonOf(err) != "VirtualDiskAlreadyInUse" {
		t.Errorf("a second VM may use it: %v", err)
	}
	h.awaitDisk("root", diskv1.DiskPhase_Ready, "InUse", "VirtualMachine web uses the disk.")

	_, err = h.disks.Delete(t.Context(), key("root"), resource.DeleteOptions{})
	check(t, err)
	h.awaitDisk("root", diskv1.DiskPhase_Terminating, "InUse", "VirtualMachine web uses the disk, which is deleted when it lets go.")
	h.stop()
	h.open() // another instance takes over
	check(t, h.disks.Release(t.Context(), key("root"), "web-uid"))
	servetest.AwaitGone(t, h.disks, key("root"))
	if left, err := filepath.Glob(filepath.Join(h.opts.Dir, "*", "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func (h *house) delete(name string) {
	h.t.Helper()
	_, err := h.disks.Delete(h.t.Context(), key(name), resource.DeleteOptions{})
	check(h.t, err)
	servetest.AwaitGone(h.t, h.disks, key(name))
}

// awaitFree waits until nobody holds the image.
func awaitFree(t *testing.T, h *house) {
	t.Helper()
	images := servetest.ClientOf[*imagev1.VirtualImage](t, h.opts.Images)
	servetest.Await(t, images, key("ubuntu"), "was free", func(i *imagev1.VirtualImage) bool { return len(i.GetMetadata().GetHolders()) == 0 })
}

func TestRefusalsNameTheField(t *testing.T) {
	h := newHouse(t)
	for what, test := range map[string]struct{ name, size, field string }{
		"a dot":     {"a.b", "1Gi", "metadata.name"},
		"no size":   {"a", "0", "spec.persistentVolumeClaim.size"},
		"no number": {"a", "much", "spec.persistentVolumeClaim.size"},
	} {
		err := h.create(test.name, test.size)
		if f := fault.From(err); f == nil || f.Class != fault.Invalid || len(f.Fields) == 0 || f.Fields[0].Path != test.field {
			t.Errorf("%s: got %v, want a refusal of %s", what, err, test.field)
		}
	}
}
