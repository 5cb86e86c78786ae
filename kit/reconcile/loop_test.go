package reconcile_test

import (
	"context"
	"slices"
	"testing"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
)

func hasPhase(p diskv1.DiskPhase_Value) func(*diskv1.VirtualDisk) bool {
	return func(d *diskv1.VirtualDisk) bool { return d.GetStatus().GetPhase() == p }
}

func gone(d *diskv1.VirtualDisk) bool { return d == nil }

func TestStatusIsWrittenAndItsOwnWriteDoesNotWakeTheLoop(t *testing.T) {
	w := newWorld(t, result(progress(diskv1.DiskPhase_Ready, "100%"), nil))
	w.create("before")
	w.run(w.loop.Run)
	w.awaitStep("before")
	w.awaitDisk("before", "Ready", hasPhase(diskv1.DiskPhase_Ready))
	if seen := w.stepsBefore("probe"); len(seen) != 0 {
		t.Fatalf("steps without a cause: %v", seen)
	}
	w.awaitDisk("probe", "Ready", hasPhase(diskv1.DiskPhase_Ready))
}

func TestAChangeOfTheObjectAndATriggerWakeTheLoop(t *testing.T) {
	w := newWorld(t, result(nil, nil))
	w.create("d")
	w.run(w.loop.Run)
	w.awaitStep("d")
	if _, err := w.disks.Mutate(t.Context(), key("d"), func(d *diskv1.VirtualDisk) error {
		d.Metadata.Labels = map[string]string{"a": "b"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.awaitStep("d")
	w.loop.Trigger(key("d"))
	w.awaitStep("d")
}

func TestATerminatingObjectGoesWhenItIsFinalizedAndNobodyHoldsIt(t *testing.T) {
	w := newWorld(t, result(nil, nil))
	w.create("d")
	holder := &metav1.Holder{Kind: "VirtualMachine", Namespace: "ns", Name: "vm", Uid: "u", Active: true}
	if _, err := w.disks.AddHolder(t.Context(), key("d"), holder, func(*diskv1.VirtualDisk) error { return nil }); err != nil {
		t.Fatal(err)
	}
	w.run(w.loop.Run)
	w.awaitStep("d")
	if _, err := w.disks.Delete(t.Context(), key("d"), resource.Preconditions{}); err != nil {
		t.Fatal(err)
	}
	w.awaitStep("d")
	w.become(func(d *diskv1.VirtualDisk) (reconcile.Result, error) {
		return reconcile.Result{Finalized: resource.Terminating(d)}, nil
	})
	w.loop.Trigger(key("d"))
	w.awaitStep("d")
	w.stepsBefore("probe")
	if d, err := w.disks.Get(key("d")); err != nil || len(d.GetMetadata().GetFinalizers()) != 1 {
		t.Fatalf("a held object lost its finalizer: %v, %v", d, err)
	}
	if _, err := w.disks.RemoveHolder(t.Context(), key("d"), "u"); err != nil {
		t.Fatal(err)
	}
	w.awaitDisk("d", "gone", gone)
}

func TestTheClassOfAFaultSaysWhenToLookAgain(t *testing.T) {
	for class, slow := range map[fault.Class]bool{
		fault.NotReady: true, fault.NotFound: true, fault.Exhausted: true,
		fault.Stale: false, fault.Transient: false, fault.Internal: false,
	} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, result(progress(diskv1.DiskPhase_Pending, ""), fault.New(class, "Test", "as told")))
			w.create("d")
			w.run(w.loop.Run)
			w.awaitStep("d")
			w.awaitDisk("d", "Pending, though the step failed", hasPhase(diskv1.DiskPhase_Pending))
			w.stepsBefore("probe")
			if slow {
				w.clock.Step(29 * time.Second)
				if seen := w.stepsBefore("another-probe"); slices.Contains(seen, "d") {
					t.Fatalf("looked again before its time: %v", seen)
				}
			}
			w.clock.Step(2 * time.Second)
			w.awaitStep("d")
		})
	}
}

func TestAFaultMaySayItselfWhenToLookAgain(t *testing.T) {
	w := newWorld(t, result(nil, fault.New(fault.NotReady, "Test", "as told").WithRetryAfter(time.Second)))
	w.create("d")
	w.run(w.loop.Run)
	w.awaitStep("d")
	w.stepsBefore("probe")
	w.clock.Step(time.Second)
	w.awaitStep("d")
}

func TestAFaultOfTheUserWaitsForAChangeOfTheObject(t *testing.T) {
	for _, class := range []fault.Class{fault.Invalid, fault.Denied, fault.Exists} {
		t.Run(class.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, result(nil, fault.New(class, "Test", "as told")))
			w.create("d")
			w.run(w.loop.Run)
			w.awaitStep("d")
			w.clock.Step(time.Hour)
			if seen := w.stepsBefore("probe"); len(seen) != 0 {
				t.Fatalf("looked again: %v", seen)
			}
			if _, err := w.disks.Mutate(t.Context(), key("d"), func(d *diskv1.VirtualDisk) error {
				d.Spec.PersistentVolumeClaim = &diskv1.DiskPersistentVolumeClaim{Size: "1Gi"}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			w.awaitStep("d")
		})
	}
}

func TestAPanicStopsNobodyElse(t *testing.T) {
	w := newWorld(t, func(d *diskv1.VirtualDisk) (reconcile.Result, error) {
		if d.GetMetadata().GetName() == "bad" {
			panic("as told")
		}
		return reconcile.Result{Status: progress(diskv1.DiskPhase_Ready, "")}, nil
	})
	w.create("bad")
	w.run(w.loop.Run)
	w.awaitStep("bad")
	w.create("good")
	w.awaitDisk("good", "Ready", hasPhase(diskv1.DiskPhase_Ready))
}

func TestProgressIsWrittenOnceASecondAndPhasesAtOnce(t *testing.T) {
	w := newWorld(t, result(progress(diskv1.DiskPhase_Provisioning, "1%"), nil))
	w.create("d")
	w.run(w.loop.Run)
	w.awaitDisk("d", "begun", func(d *diskv1.VirtualDisk) bool { return d.GetStatus().GetProgress() == "1%" })

	w.become(result(progress(diskv1.DiskPhase_Provisioning, "2%"), nil))
	w.loop.Trigger(key("d"))
	w.stepsBefore("probe")
	if d, err := w.disks.Get(key("d")); err != nil || d.GetStatus().GetProgress() != "1%" {
		t.Fatalf("progress was written within the second: %v, %v", d, err)
	}
	w.clock.Step(time.Second)
	w.awaitDisk("d", "further", func(d *diskv1.VirtualDisk) bool { return d.GetStatus().GetProgress() == "2%" })

	w.become(result(progress(diskv1.DiskPhase_Ready, "100%"), nil))
	w.loop.Trigger(key("d"))
	w.awaitDisk("d", "Ready", hasPhase(diskv1.DiskPhase_Ready))
}

func TestALoopRunsAgainAndBeginsWithEverything(t *testing.T) {
	w := newWorld(t, result(nil, nil))
	w.create("d")
	stop := w.run(w.loop.Run)
	w.awaitStep("d")
	stop()
	w.loop.Trigger(key("d")) // has nowhere to go, and does no harm
	w.run(w.loop.Run)
	w.awaitStep("d")
}

func TestRunReturnsAfterTheStepUnderWay(t *testing.T) {
	w := newWorld(t, result(nil, nil))
	w.create("d")
	entered := make(chan struct{})
	var ended bool
	loop := reconcile.New(w.disks, reconcile.Func[*diskv1.VirtualDisk](func(ctx context.Context, _ *diskv1.VirtualDisk) (reconcile.Result, error) {
		close(entered)
		<-ctx.Done()
		ended = true
		return reconcile.Result{}, ctx.Err()
	}), reconcile.Options{Name: "slow"})
	stop := w.run(loop.Run)
	<-entered
	stop()
	if !ended {
		t.Fatal("Run returned before the step")
	}
}
