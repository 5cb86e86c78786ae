package virtualdisk_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/disk/internal/virtualdisk"
)

func TestDiskHasTheSizeThatWasAskedForOrItsImages(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		spec     *diskv1.VirtualDiskSpec
		capacity string
	}{
		{blank("100Mi"), "100Mi"},
		{blank("1000"), "1Ki"},
		{fromImage(""), "8Mi"},
		{fromImage("8Mi"), "8Mi"},
		{fromImage("10Gi"), "10Gi"},
	} {
		t.Run(fmt.Sprint(test.spec), func(t *testing.T) {
			w := newWorld(t, client)
			w.disk.Spec = test.spec
			w.ready()
			w.ready() // again is no harm
			status := w.disk.GetStatus()
			if status.GetCapacity() != test.capacity || status.GetProgress() != "100%" {
				t.Errorf("capacity %s, progress %s; want %s", status.GetCapacity(), status.GetProgress(), test.capacity)
			}
			if got := status.GetTarget().GetPersistentVolumeClaimName(); got != "d8v-vd-root-disk-uid" {
				t.Errorf("target %s", got)
			}
			if got := status.GetStats().GetCreationDuration().GetTotalProvisioning(); got != "3s" {
				t.Errorf("it took %s", got)
			}
			if condition.Find(status.GetConditions(), "DatasourceReady") != nil || w.image.holder != "" {
				t.Errorf("a disk that is made still needs its image: %v, %q", status.GetConditions(), w.image.holder)
			}
		})
	}
}

func TestDiskWaitsAndSaysForWhat(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		name      string
		lack      func(w *world)
		phase     diskv1.DiskPhase_Value
		condition string
		reason    string
		message   string
	}{
		{
			"image", func(w *world) { w.image.state = virtualdisk.ImageState{} }, diskv1.DiskPhase_Pending,
			"DatasourceReady", "ImageNotFound", "waits for VirtualImage ubuntu, which does not exist",
		},
		{
			"image that is not ready",
			func(w *world) {
				w.image.state = virtualdisk.ImageState{Found: true, Phase: "Provisioning", Progress: "41.0%"}
			},
			diskv1.DiskPhase_Pending, "DatasourceReady", "ImageNotReady", "waits for VirtualImage ubuntu: Provisioning, 41.0%",
		},
		{
			"image service", func(w *world) { w.image.state = virtualdisk.ImageState{Unknown: true} }, diskv1.DiskPhase_Pending,
			"DatasourceReady", "ImageNotReady", "waits for the image service, which has not answered yet",
		},
		{
			"claim", func(w *world) { w.image.broken = fault.New(fault.Transient, "Unavailable", "the service is away") },
			diskv1.DiskPhase_Pending, "Ready", "DatasourceIsNotReady", "the service is away",
		},
		{
			"class", func(w *world) { w.disk.Spec.PersistentVolumeClaim.StorageClassName = "gold" }, diskv1.DiskPhase_Pending,
			"StorageClassReady", "StorageClassNotReady", `there is no storage class "gold": name one of local, local-wffc`,
		},
		{
			"storage of the image", func(w *world) { w.image.blob.Path = "" }, diskv1.DiskPhase_Failed,
			"Ready", "ProvisioningFailed", "the storage of DVCR is not on this machine: configure its folder for the image service",
		},
		{
			"space", func(w *world) { w.volume.broken = fmt.Errorf("write: %w", syscall.ENOSPC) }, diskv1.DiskPhase_Failed,
			"Ready", "ProvisioningFailed", "no space is left where disks are kept",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, client)
			healthy := *w.image
			test.lack(w)
			for range 3 {
				if _, err := w.pass(); err == nil {
					t.Fatal("the loop is not told to come again")
				}
			}
			w.want(test.phase, test.condition, test.reason, test.message)
			*w.image, w.volume.broken = healthy, nil
			w.image.blob.Path, w.disk.Spec.PersistentVolumeClaim.StorageClassName = blobPath(t), ""
			w.ready()
			if got := w.disk.GetStatus().GetSourceUid(); got != "image-uid" {
				t.Errorf("made from %q", got)
			}
		})
	}
}

func TestDiskThatCannotBeMadeFailsWithoutAClaim(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		name    string
		spoil   func(w *world)
		reason  string
		message string
	}{
		{
			"an ISO image", func(w *world) { w.image.state.CDROM = true }, "ProvisioningFailed",
			"VirtualImage ubuntu is an ISO image, from which no disk can be made: attach it to the VM as an image instead",
		},
		{
			"smaller than its image", func(w *world) { w.disk.Spec = fromImage("4Mi") }, "ProvisioningFailed",
			"spec.persistentVolumeClaim.size 4Mi is smaller than VirtualImage ubuntu, which needs 8Mi",
		},
		{
			"from a snapshot",
			func(w *world) {
				w.disk.Spec.DataSource.ObjectRef.Kind = diskv1.DiskObjectRefKind_VirtualDiskSnapshot
			}, "NotSupported", "spec.dataSource.objectRef.kind VirtualDiskSnapshot: there is no snapshot service here",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, client)
			test.spoil(w)
			if _, err := w.pass(); !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v", err)
			}
			w.want(diskv1.DiskPhase_Failed, "Ready", test.reason, test.message)
			if w.image.claims != 0 {
				t.Error("the image was claimed: that wakes the disk, for ever")
			}
		})
	}
}

func TestDiskIsMadeAfterAMomentsTrouble(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	w.volume.broken = errors.New("qemu-img: exit status 1")
	if _, err := w.pass(); !fault.Is(err, fault.Internal) {
		t.Fatalf("got %v", err)
	}
	w.want(diskv1.DiskPhase_Failed, "Ready", "ProvisioningFailed", "the disk's data can't be written: the disk service's log says why")
	w.volume.broken = nil
	w.ready()
	if w.image.holder != "" {
		t.Errorf("the image is held by %s", w.image.holder)
	}
}

func TestDiskGrows(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	w.disk.Spec = blank("10Mi")
	w.ready()
	w.disk.Spec = blank("20Mi")
	w.disk.Metadata.Holders = []*metav1.Holder{w.hold("web", true)}
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	w.want(diskv1.DiskPhase_Resizing, "Resizing", "InProgress", "The disk grows from 10Mi to 20Mi under the running VirtualMachine web.")
	w.want(diskv1.DiskPhase_Resizing, "InUse", "AttachedToVirtualMachine", "VirtualMachine web uses the disk.")
	w.disk.Metadata.Holders[0].Active = false
	w.volume.broken = fmt.Errorf("write: %w", syscall.ENOSPC)
	if _, err := w.pass(); !fault.Is(err, fault.Exhausted) {
		t.Fatalf("got %v", err)
	}
	w.want(diskv1.DiskPhase_Resizing, "Resizing", "NotAvailable", "no space is left where disks are kept")
	w.volume.broken = nil
	w.ready()
	if got := w.disk.GetStatus().GetCapacity(); got != "20Mi" {
		t.Errorf("capacity %s", got)
	}
	if attached := w.disk.GetStatus().GetAttachedToVirtualMachines(); len(attached) != 1 || attached[0].GetMounted() {
		t.Errorf("attached %v", attached)
	}
}

func TestDeletedDiskWaitsForItsVMAndLeavesNothing(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	w.ready()
	w.disk.Metadata.Holders = []*metav1.Holder{w.hold("web", true)}
	w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	if result, err := w.pass(); err != nil || result.Finalized {
		t.Fatalf("%v, %v", result, err)
	}
	w.want(diskv1.DiskPhase_Terminating, "InUse", "AttachedToVirtualMachine",
		"VirtualMachine web uses the disk, which is deleted when it lets go.")
	if w.files() == 0 {
		t.Fatal("the data went while it was used")
	}
	w.disk.Metadata.Holders = []*metav1.Holder{w.hold("web", false)}
	for range 2 { // a process killed before the finalizer went comes here again
		if result, err := w.pass(); err != nil || !result.Finalized {
			t.Fatalf("%v, %v", result, err)
		}
	}
	if left := w.files(); left != 0 {
		t.Errorf("%d files are left", left)
	}
}

func TestDiskThatIsDeletedBeforeItIsMadeGivesItsClaimBack(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	w.volume.broken = errors.New("trouble")
	_, _ = w.pass()
	if w.image.holder == "" {
		t.Fatal("the image is not claimed")
	}
	w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	w.image.broken = fault.New(fault.Transient, "Unavailable", "the service is away")
	if result, err := w.pass(); err == nil || result.Finalized {
		t.Fatalf("%v, %v", result, err)
	}
	w.want(diskv1.DiskPhase_Terminating, "InUse", "NotInUse", "")
	w.image.broken = nil
	if result, err := w.pass(); err != nil || !result.Finalized || w.image.holder != "" {
		t.Fatalf("%v, %v, held by %q", result, err, w.image.holder)
	}
}
