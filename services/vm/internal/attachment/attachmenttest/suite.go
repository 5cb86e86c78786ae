// Package attachmenttest says what an engine must do that devices can be plugged
// into.
//
// It must not know how any engine works.
package attachmenttest

import (
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/attachment"
	"orlop.dev/services/vm/internal/machine"
)

// Engine runs instances, and has devices plugged into them.
type Engine interface {
	attachment.Engine
	Start(ctx context.Context, instance machine.Instance) error
	Kill(ctx context.Context, uid string) error
}

// Subject is an engine and what a test needs beside it.
type Subject struct {
	Engine Engine
	// Instance describes one that can be started.
	Instance func(t *testing.T, uid string) machine.Instance
	// Device describes one that can be plugged in; the suite names it.
	Device func(t *testing.T) machine.Device
}

// RunEngine runs the suite. open gives a new engine, which ends with its test.
func RunEngine(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*trial){
		"nothing is plugged into what does not run":  (*trial).absent,
		"what is plugged in is there, and goes":      (*trial).plug,
		"what is repeated is done once":              (*trial).again,
		"a new instance has nothing, or what it got": (*trial).restart,
	} {
		t.Run(name, func(t *testing.T) {
			test(&trial{T: t, Subject: open(t), uid: uuid.NewString(), made: map[string]machine.Device{}})
		})
	}
}

type trial struct {
	*testing.T
	Subject
	uid  string
	made map[string]machine.Device
}

func (t *trial) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// device is the same one for the same name.
func (t *trial) device(name string) machine.Device {
	if _, made := t.made[name]; !made {
		d := t.Device(t.T)
		d.ID = name
		t.made[name] = d
	}
	return t.made[name]
}

func (t *trial) start(plugged ...string) {
	t.Helper()
	instance := t.Instance(t.T, t.uid)
	for _, name := range plugged {
		instance.Plugged = append(instance.Plugged, t.device(name))
	}
	t.check(t.Engine.Start(t.Context(), instance))
	t.Cleanup(func() { t.check(t.Engine.Kill(context.WithoutCancel(t.Context()), t.uid)) })
}

func (t *trial) plugIn(name string) {
	t.Helper()
	t.check(t.Engine.Plug(t.Context(), t.uid, t.device(name)))
}

func (t *trial) unplug(name string) {
	t.Helper()
	t.check(t.Engine.Unplug(t.Context(), t.uid, name))
}

func (t *trial) want(names ...string) {
	t.Helper()
	sight, err := t.Engine.Look(t.Context(), t.uid)
	t.check(err)
	if !slices.Equal(sight.IDs(), names) {
		t.Fatalf("plugged in are %v, want %v", sight.Plugged, names)
	}
}

func (t *trial) absent() {
	if err := t.Engine.Plug(t.Context(), t.uid, t.device("virtualdisk/a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("plugged into nothing: %v", err)
	}
	t.unplug("virtualdisk/a")
}

func (t *trial) plug() {
	t.start()
	t.want()
	for _, name := range []string{"virtualdisk/a", "virtualdisk/b", "virtualdisk/c"} {
		t.plugIn(name)
	}
	t.want("virtualdisk/a", "virtualdisk/b", "virtualdisk/c")
	t.unplug("virtualdisk/b")
	t.want("virtualdisk/a", "virtualdisk/c")
	if sight, err := t.Engine.Look(t.Context(), t.uid); err != nil || sight.Plugged[1].Place != 2 {
		t.Errorf("the free place is not counted: %v, %v", sight.Plugged, err)
	}
	t.plugIn("virtualdisk/d") // takes the free place
	t.want("virtualdisk/a", "virtualdisk/d", "virtualdisk/c")
}

func (t *trial) again() {
	t.start()
	t.plugIn("virtualdisk/a")
	t.plugIn("virtualdisk/a")
	t.want("virtualdisk/a")
	t.unplug("virtualdisk/a")
	t.unplug("virtualdisk/a")
	t.want()
}

func (t *trial) restart() {
	t.start()
	t.plugIn("virtualdisk/a")
	t.plugIn("virtualdisk/b")
	t.check(t.Engine.Kill(t.Context(), t.uid))
	t.start()
	t.want()
	t.check(t.Engine.Kill(t.Context(), t.uid))
	t.start("virtualdisk/b", "virtualdisk/a")
	t.want("virtualdisk/b", "virtualdisk/a")
	t.unplug("virtualdisk/b")
	t.want("virtualdisk/a")
}
