package virtualdisk_test

import (
	"os"
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/etcdtest"
)

// claims has the VM claim its disk on a node, or on its way to another.
func (w *world) claims(holder *metav1.Holder, node, target string) *diskv1.Volume {
	w.t.Helper()
	holder.Node, holder.TargetNode = node, target
	volume, err := w.claim(holder)
	if err != nil {
		w.t.Fatal(err)
	}
	return volume
}

// leaving is a disk of node-1 whose VM moves to node-2, and the VM.
func leaving(t *testing.T) (w *world, machine *metav1.Holder, volume *diskv1.Volume) {
	t.Helper()
	w = newWorld(t, etcdtest.Start(t))
	w.disk.Spec = firstConsumer(blank("8Mi"))
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	machine = w.hold("web", true)
	w.claims(machine, "node-1", "")
	w.ready()
	if volume := w.claims(machine, "node-1", "node-2"); volume.GetTargetPath() != "" || volume.GetNode() != "node-1" {
		t.Fatalf("before anything is made: %v", volume)
	}
	w.ready()
	volume = w.claims(machine, "node-1", "node-2")
	if volume.GetTargetPath() == "" || volume.GetTargetMark() == "" || volume.GetTargetPath() == volume.GetPath() {
		t.Fatalf("%v", volume)
	}
	w.ready()
	if again := w.claims(machine, "node-1", "node-2"); again.GetTargetPath() != volume.GetTargetPath() {
		t.Fatalf("%v, then %v", volume, again)
	}
	return w, machine, volume
}

func TestADiskFollowsItsVMToAnotherNode(t *testing.T) {
	w, machine, before := leaving(t)
	if err := os.WriteFile(before.GetTargetMark(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		after := w.claims(machine, "node-2", "")
		if after.GetPath() != before.GetTargetPath() || after.GetNode() != "node-2" || after.GetTargetPath() != "" {
			t.Fatalf("%v, was %v", after, before)
		}
		w.ready()
	}
	if w.files() != 2 { // its record is one
		t.Errorf("%d files are left", w.files())
	}
	w.claims(machine, "node-2", "node-1")
	w.ready()
	if back := w.claims(machine, "node-2", "node-1"); back.GetTargetPath() == "" {
		t.Errorf("on the way back: %v", back)
	}
}

func TestADiskStaysWhereItsVMStays(t *testing.T) {
	for name, end := range map[string]func(w *world, machine *metav1.Holder){
		"the migration failed": func(w *world, machine *metav1.Holder) { w.claims(machine, "node-1", "") },
		"the VM went":          func(w *world, _ *metav1.Holder) { w.disk.Metadata.Holders = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w, machine, before := leaving(t)
			end(w, machine)
			w.ready()
			if after := w.claims(machine, "node-1", ""); after.GetPath() != before.GetPath() || after.GetNode() != "node-1" {
				t.Errorf("%v, was %v", after, before)
			}
			if w.files() != 2 { // its record is one
				t.Errorf("%d files are left", w.files())
			}
		})
	}
}

// The host went down in the instant after the guest had moved, and the VM starts
// anew.
func TestAVMThatStartsAnewHasWhatItsGuestWroteLast(t *testing.T) {
	w, machine, before := leaving(t)
	if err := os.WriteFile(before.GetTargetMark(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.disk.Metadata.Holders = nil
	if after := w.claims(machine, "node-2", ""); after.GetPath() != before.GetTargetPath() || after.GetNode() != "node-2" {
		t.Errorf("%v, was %v", after, before)
	}
}
