package reconcile_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"

	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
)

func TestCascadeDeletesWhatItsControllerLeftBehind(t *testing.T) {
	var there, silent atomic.Bool
	there.Store(true)
	owners := func(_ context.Context, namespace string, o *metav1.OwnerReference) (bool, error) {
		if namespace != "ns" || o.GetName() != "vm" {
			return false, errors.New("asked for another owner")
		}
		if silent.Load() {
			return false, errors.New("no answer")
		}
		return there.Load(), nil
	}
	yes := true
	owned := func(m *metav1.ObjectMeta) {
		m.OwnerReferences = []*metav1.OwnerReference{{Kind: "VirtualMachine", Name: "vm", Uid: "u", Controller: &yes}}
	}
	merely := func(m *metav1.ObjectMeta) {
		m.OwnerReferences = []*metav1.OwnerReference{{Kind: "VirtualMachine", Name: "vm", Uid: "u"}}
	}
	mirrored := func(m *metav1.ObjectMeta) {
		m.Annotations = map[string]string{reconcile.MirroredAnnotation: ""}
	}
	w := newWorld(t, func(d *diskv1.VirtualDisk) (reconcile.Result, error) {
		return reconcile.Result{Finalized: resource.Terminating(d)}, nil
	})
	w.create("owned", owned)
	w.create("merely", merely)
	w.create("mirrored", owned, mirrored)
	w.create("free")
	loop := reconcile.New(w.disks, reconcile.Cascade(w.disks, owners, reconcile.Func[*diskv1.VirtualDisk](w.reconcile)),
		reconcile.Options{Name: "cascade", Finalizer: finalizer, Workers: 1, Clock: w.clock})
	w.run(loop.Run)
	w.awaitStep("owned")

	there.Store(false)
	silent.Store(true)
	loop.Trigger(key("owned"))
	w.awaitStep("owned") // the step goes on where the owner can't be asked
	silent.Store(false)
	for _, name := range []string{"owned", "merely", "mirrored", "free"} {
		loop.Trigger(key(name))
	}
	w.awaitDisk("owned", "gone", gone)
	w.stepsBefore("probe")
	for _, name := range []string{"merely", "mirrored", "free"} {
		if d, err := w.disks.Get(key(name)); err != nil || resource.Terminating(d) {
			t.Errorf("%s was deleted: %v, %v", name, d, err)
		}
	}
}
