// Package machinetest says what an engine of guests must do, and has one that
// runs none.
//
// It must not know how any engine works.
package machinetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
)

// patience bounds what a crowded machine may take; tests that pass don't wait.
const patience = 2 * time.Minute

// Subject is an engine and what a test needs beside it.
type Subject struct {
	Engine machine.Engine
	// Instance describes a guest that obeys its power button.
	Instance func(t *testing.T, uid string) machine.Instance
	// Size is what the first device of a running instance has now, in bytes.
	Size func(t *testing.T, instance machine.Instance) int64
	// End brings the guest of a running instance to an end: Shutdown, Panicked or
	// Crashed.
	End func(t *testing.T, uid string, how machine.State)
}

// RunEngine runs the suite. open gives a new engine, which ends with its test.
func RunEngine(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*trial){
		"what was never started is absent":            (*trial).absent,
		"a start that is repeated is one":             (*trial).startTwice,
		"a guest that is asked shuts down":            (*trial).powerdown,
		"a killed instance is gone at once":           (*trial).kill,
		"memory that was not kept is not recalled":    (*trial).recall,
		"a device grows, and never shrinks":           (*trial).grow,
		"an end is seen until the instance is killed": (*trial).endings,
	} {
		t.Run(name, func(t *testing.T) {
			test(&trial{T: t, Subject: open(t), uid: uuid.NewString()})
		})
	}
}

type trial struct {
	*testing.T
	Subject
	uid string
}

func (t *trial) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *trial) start() machine.Instance {
	t.Helper()
	instance := t.Instance(t.T, t.uid)
	t.check(t.Engine.Start(t.Context(), instance))
	t.Cleanup(func() { t.check(t.Engine.Kill(context.WithoutCancel(t.Context()), t.uid)) })
	t.await(machine.Running, nil)
	return instance
}

// await looks until the instance is in that state, and repeats what helps it.
func (t *trial) await(want machine.State, again func()) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		sight, err := t.Engine.Look(t.Context(), t.uid)
		t.check(err)
		if sight.State == want {
			return
		}
		if again != nil {
			again()
		}
		select {
		case <-deadline.C:
			t.Fatalf("the instance is %s, and never was %s", sight.State, want)
		case <-tick.C:
		}
	}
}

func (t *trial) absent() {
	t.await(machine.Absent, nil)
	t.check(t.Engine.Powerdown(t.Context(), t.uid))
	t.check(t.Engine.Kill(t.Context(), t.uid))
	t.await(machine.Absent, nil)
}

func (t *trial) startTwice() {
	t.start()
	t.check(t.Engine.Start(t.Context(), t.Instance(t.T, t.uid)))
	t.await(machine.Running, nil)
	t.check(t.Engine.Kill(t.Context(), t.uid))
	t.await(machine.Absent, nil) // a second one would be seen
}

func (t *trial) powerdown() {
	t.start()
	t.await(machine.Shutdown, func() { t.check(t.Engine.Powerdown(t.Context(), t.uid)) })
	t.check(t.Engine.Powerdown(t.Context(), t.uid))
}

func (t *trial) kill() {
	t.start()
	t.check(t.Engine.Kill(t.Context(), t.uid))
	t.await(machine.Absent, nil)
	t.check(t.Engine.Kill(t.Context(), t.uid))
}

func (t *trial) recall() {
	if _, err := t.Engine.Recall(t.Context(), t.Instance(t.T, t.uid), uuid.NewString()); !fault.Is(err, fault.Invalid) {
		t.Fatalf("recalled: %v", err)
	}
	t.await(machine.Absent, nil)
	t.start() // and it boots
}

func (t *trial) grow() {
	if err := t.Engine.Grow(t.Context(), t.uid, "none", 1<<30); !fault.Is(err, fault.NotFound) {
		t.Fatalf("an absent instance grows: %v", err)
	}
	instance := t.start()
	for _, size := range []int64{64 << 20, 64 << 20, 32 << 20} {
		t.check(t.Engine.Grow(t.Context(), t.uid, instance.Devices[0].ID, size))
		if got := t.Size(t.T, instance); got != 64<<20 {
			t.Fatalf("asked for %d bytes the device has %d", size, got)
		}
	}
}

func (t *trial) endings() {
	for _, how := range []machine.State{machine.Shutdown, machine.Panicked, machine.Crashed} {
		t.start()
		t.End(t.T, t.uid, how)
		t.await(how, nil)
		t.await(how, nil)
		t.check(t.Engine.Kill(t.Context(), t.uid))
		t.await(machine.Absent, nil)
	}
}
