package virtualdisk_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
	"orlop.dev/services/disk/internal/virtualdisk"
)

func firstConsumer(spec *diskv1.VirtualDiskSpec) *diskv1.VirtualDiskSpec {
	spec.PersistentVolumeClaim.StorageClassName = "local-wffc"
	return spec
}

func TestDiskIsMadeForItsFirstConsumer(t *testing.T) {
	client := etcdtest.Start(t)
	for name, spec := range map[string]*diskv1.VirtualDiskSpec{
		"empty": blank("8Mi"), "of an image": fromImage(""), "imported": fromURL(""),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, client)
			w.disk.Spec, w.file.stage = firstConsumer(spec), imagev1.ImportStage_Done
			machine := w.hold("web", true)
			machine.Node = "node-2"
			if _, err := w.claim(machine); !fault.Is(err, fault.NotReady) {
				t.Fatalf("a disk of which nothing is known is claimed: %v", err)
			}
			for range 2 {
				if _, err := w.pass(); err != nil {
					t.Fatal(err)
				}
			}
			w.want(diskv1.DiskPhase_WaitForFirstConsumer, "Ready", "WaitingForFirstConsumer", "")
			if _, err := w.claim(w.hold("web", false)); err != nil {
				t.Fatal(err)
			}
			if _, err := w.pass(); err != nil {
				t.Fatal(err)
			}
			w.want(diskv1.DiskPhase_WaitForFirstConsumer, "InUse", "NotInUse", "") // one that is off consumes nothing

			if volume, err := w.claim(machine); err != nil || volume.GetPath() != "" {
				t.Fatalf("%v, %v", volume, err)
			}
			w.now = w.now.Add(4 * time.Second)
			w.ready()
			volume, err := w.claim(machine)
			if err != nil || volume.GetPath() == "" || volume.GetNode() != "node-2" {
				t.Fatalf("%v, %v", volume, err)
			}
			if got := w.disk.GetStatus().GetStats().GetCreationDuration().GetWaitingForFirstConsumer(); got != "4s" {
				t.Errorf("it waited %s", got)
			}
			w.disk.Metadata.Holders = nil
			w.ready() // it stays where it is
			if volume, err = w.claim(w.hold("other", false)); err != nil || volume.GetNode() != "node-2" {
				t.Errorf("%v, %v", volume, err)
			}
		})
	}
}

func TestImageThatIsMadeFromADiskIsNoConsumer(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = firstConsumer(blank("8Mi"))
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	reader := &metav1.Holder{Kind: "VirtualImage", Name: "copy", Uid: "copy-uid", Active: true}
	if _, err := w.claim(reader); !fault.Is(err, fault.NotReady) {
		t.Fatalf("got %v", err)
	}
	w.disk.Spec = blank("8Mi")
	w.ready()
	if _, err := w.claim(reader); err != nil {
		t.Fatal(err)
	}
	w.ready()
	w.want(diskv1.DiskPhase_Ready, "InUse", "UsedForImageCreation", "VirtualImage copy uses the disk.")
}

func TestLostDataIsNeverMadeAnewAndIsUsedWhenItComesBack(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = blank("8Mi")
	w.ready()
	volumes, away := filepath.Join(w.dir, "volumes"), filepath.Join(t.TempDir(), "away")
	if err := os.Rename(volumes, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if result, err := w.pass(); err != nil || result.After == 0 {
			t.Fatalf("%v, %v: nobody looks again", result, err)
		}
	}
	w.want(diskv1.DiskPhase_PVCLost, "Ready", "PVCLost", "")
	if got := w.disk.GetStatus().GetCapacity(); got != "8Mi" {
		t.Errorf("capacity %s", got)
	}
	if _, err := w.claim(w.hold("web", true)); !fault.Is(err, fault.NotReady) {
		t.Errorf("a VM may run with it: %v", err)
	}
	wantRefusal(t, w.r.Admit(t.Context(), w.disk, changed(w, blank("16Mi"))), "a lost disk", "spec")
	if err := os.Rename(away, volumes); err != nil {
		t.Fatal(err)
	}
	w.ready()
}

func changed(w *world, spec *diskv1.VirtualDiskSpec) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{Metadata: w.disk.Metadata, Spec: spec, Status: w.disk.Status}
}

func TestDiskIsAsLargeAsItsVMMadeIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = blank("10Mi")
	w.ready()
	machine := w.hold("web", true)
	volume, err := w.claim(machine)
	if err != nil {
		t.Fatal(err)
	}
	w.edit(blank("20Mi"))
	if result, err := w.pass(); err != nil || result.After == 0 {
		t.Fatalf("%v, %v", result, err)
	}
	w.want(diskv1.DiskPhase_Resizing, "Ready", "Ready", "")
	qemuImg(t, "resize", "-q", "-f", "qcow2", volume.GetPath(), "20M") // as QEMU does by block_resize
	w.ready()
	if got := w.disk.GetStatus().GetCapacity(); got != "20Mi" {
		t.Errorf("capacity %s", got)
	}
	// Its spec was changed back in between: what the guest has it keeps.
	w.edit(blank("15Mi"))
	w.ready()
	w.disk.Metadata.Holders = nil
	w.ready()
	if got := w.disk.GetStatus().GetCapacity(); got != "20Mi" {
		t.Errorf("capacity %s", got)
	}
}

func TestDisksAreNotPromisedMoreThanTheOvercommitAllows(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.r.Overcommit, w.space.room = 2, layer.Room{Free: 12 * mib, Promised: 10 * mib}
	w.disk.Spec = blank("16Mi")
	if _, err := w.pass(); !fault.Is(err, fault.Exhausted) {
		t.Fatalf("got %v", err)
	}
	w.want(diskv1.DiskPhase_Pending, "Ready", "QuotaExceeded", "16Mi more are wanted and 14Mi can be promised: "+
		"12Mi are free here, other disks may yet grow by 10Mi, and the overcommit is 2")
	w.edit(blank("14Mi"))
	w.ready()
	w.space.room.Promised = 24 * mib
	w.ready() // what is there stays
	w.edit(blank("15Mi"))
	if _, err := w.pass(); !fault.Is(err, fault.Exhausted) {
		t.Fatalf("got %v", err)
	}
	w.want(diskv1.DiskPhase_Resizing, "Resizing", "NotAvailable", "")
	w.space.room.Promised = 0
	w.ready()
}

// wire is cut after some more steps, which is how a process dies.
type wire struct {
	steps, cutAt int
	cut          context.CancelFunc
}

func (w *wire) around(ctx context.Context, effect func() error) error {
	if err := w.step(ctx); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	return w.step(ctx)
}

func (w *wire) step(ctx context.Context) error {
	if w.steps++; w.cutAt != 0 && w.steps == w.cutAt {
		w.cut()
	}
	return ctx.Err()
}

// mortal is all that a reconciler has an effect on, and dies when its wire is cut.
type mortal struct {
	virtualdisk.Volumes
	virtualdisk.Imports
	virtualdisk.Images
	virtualdisk.Origins
	*wire
}

func (m *mortal) Make(ctx context.Context, id string, base *layer.Base, virtualBytes int64) error {
	return m.around(ctx, func() error { return m.Volumes.Make(ctx, id, base, virtualBytes) })
}

func (m *mortal) Put(ctx context.Context, uid string, record *origin.Record) error {
	return m.around(ctx, func() error { return m.Origins.Put(ctx, uid, record) })
}

func (m *mortal) Drop(ctx context.Context, owner *metav1.Holder) error {
	return m.around(ctx, func() error { return m.Imports.Drop(ctx, owner) })
}

func (m *mortal) Release(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) error {
	return m.around(ctx, func() error { return m.Images.Release(ctx, ref, holder) })
}

func (m *mortal) Claim(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) (blob *imagev1.Blob, err error) {
	err = m.around(ctx, func() error { blob, err = m.Images.Claim(ctx, ref, holder); return err })
	return blob, err
}

func TestMakingSurvivesDeathBetweenAnyTwoSteps(t *testing.T) {
	client := etcdtest.Start(t)
	for name, spec := range map[string]*diskv1.VirtualDiskSpec{
		"of an image": fromImage(""), "imported": fromURL(""), "for a first consumer": firstConsumer(fromImage("")),
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; makeAndDie(t, newWorld(t, client), spec, at); at++ {
			}
		})
	}
}

// makeAndDie reports whether the process died at that step; the next one makes
// the disk, and keeps nothing of the image service.
func makeAndDie(t *testing.T, w *world, spec *diskv1.VirtualDiskSpec, at int) bool {
	t.Helper()
	w.disk.Spec, w.file.stage = spec, imagev1.ImportStage_Done
	machine := w.hold("web", true)
	machine.Node = "node-1"
	w.disk.Metadata.Holders = []*metav1.Holder{machine}
	ctx, cut := context.WithCancel(t.Context())
	defer cut()
	m := &mortal{Volumes: w.volume, Imports: w.file, Images: w.image, Origins: w.r.Origins, wire: &wire{cutAt: at, cut: cut}}
	dying := &virtualdisk.Reconciler{
		Volumes: m, Imports: m, Images: m, Origins: m, Classes: w.r.Classes, Space: w.space, Now: w.r.Now,
	}
	_, _ = dying.Reconcile(ctx, w.disk)
	died := ctx.Err() != nil
	w.ready()
	if w.file.owner != "" || w.image.holder != "" {
		t.Fatalf("step %d: kept for %q, %q", at, w.file.owner, w.image.holder)
	}
	volume, err := w.claim(machine)
	if wants := w.disk.GetStatus().GetStorageClassName() == "local-wffc"; err != nil || (volume.GetNode() == "node-1") != wants {
		t.Fatalf("step %d: %v, %v", at, volume, err)
	}
	return died
}
