package machinetest

import (
	"context"
	"slices"
	"sync"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
)

// Engine runs guests that exist in memory only. The zero value works.
type Engine struct {
	// Deaf guests don't hear their power button.
	Deaf bool

	mu     sync.Mutex
	sights map[string]machine.Sight
	starts int
	last   machine.Instance
	sizes  map[string]int64
	// kept is memory by its token, recalled the tokens of instances that stand still
	// with it, resumed counts those that went on.
	kept     map[string]bool
	recalled map[string]string
	resumed  int
	// places are of the devices that were plugged in, by the instance; "" is free.
	places map[string][]string
}

// Start implements machine.Engine.
func (e *Engine) Start(ctx context.Context, instance machine.Instance) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.sights == nil {
		e.sights = map[string]machine.Sight{}
	}
	if !e.sights[instance.UID].State.Alive() {
		e.starts++
		if e.recalled[instance.UID] != "" {
			e.resumed++
			delete(e.recalled, instance.UID)
		}
		e.last = instance
		e.sights[instance.UID] = machine.Sight{State: machine.Running, QEMU: "10.0.0", InstalledQEMU: "10.0.0"}
		for _, device := range instance.Plugged {
			e.place(instance.UID, device.ID)
		}
	}
	return nil
}

// Keep makes memory that can be recalled; its guest's file systems were at rest.
func (e *Engine) Keep(token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kept == nil {
		e.kept, e.recalled = map[string]bool{}, map[string]string{}
	}
	e.kept[token] = true
}

// Resumed counts the instances that went on from memory.
func (e *Engine) Resumed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resumed
}

// Recall implements machine.Engine.
func (e *Engine) Recall(ctx context.Context, instance machine.Instance, token string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case !e.kept[token]:
		return false, fault.New(fault.Invalid, "MemoryNotKept", "no memory is kept")
	}
	e.recalled[instance.UID] = token
	return true, nil
}

// Look implements machine.Engine.
func (e *Engine) Look(ctx context.Context, uid string) (machine.Sight, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if sight, there := e.sights[uid]; there {
		for place, id := range e.places[uid] {
			if id != "" {
				sight.Plugged = append(sight.Plugged, machine.Plugged{ID: id, Place: place})
			}
		}
		return sight, ctx.Err()
	}
	return machine.Sight{State: machine.Absent}, ctx.Err()
}

// Powerdown implements machine.Engine.
func (e *Engine) Powerdown(ctx context.Context, uid string) error {
	if sight, err := e.Look(ctx, uid); err != nil || sight.State != machine.Running || e.Deaf {
		return err
	}
	e.Set(uid, machine.Sight{State: machine.Shutdown})
	return nil
}

// Kill implements machine.Engine.
func (e *Engine) Kill(ctx context.Context, uid string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	delete(e.sights, uid)
	delete(e.places, uid)
	delete(e.recalled, uid)
	return nil
}

// Plug implements attachment.Engine.
func (e *Engine) Plug(ctx context.Context, uid string, device machine.Device) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !e.sights[uid].State.Alive() {
		return fault.New(fault.NotFound, "VirtualMachineNotRunning", "the VM does not run")
	}
	e.place(uid, device.ID)
	return nil
}

func (e *Engine) place(uid, device string) {
	if slices.Contains(e.places[uid], device) {
		return
	}
	if e.places == nil {
		e.places = map[string][]string{}
	}
	if free := slices.Index(e.places[uid], ""); free >= 0 {
		e.places[uid][free] = device
		return
	}
	e.places[uid] = append(e.places[uid], device)
}

// Unplug implements attachment.Engine.
func (e *Engine) Unplug(ctx context.Context, uid, device string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at := slices.Index(e.places[uid], device); at >= 0 && ctx.Err() == nil {
		e.places[uid][at] = ""
	}
	return ctx.Err()
}

// Grow implements machine.Engine.
func (e *Engine) Grow(ctx context.Context, uid, device string, virtualBytes int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !e.sights[uid].State.Alive() {
		return fault.New(fault.NotFound, "VirtualMachineNotRunning", "the VM does not run")
	}
	if e.sizes == nil {
		e.sizes = map[string]int64{}
	}
	e.sizes[device] = max(e.sizes[device], virtualBytes)
	return nil
}

// Size is what a device was last made to have; 0 where nobody asked for any.
func (e *Engine) Size(device string) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sizes[device]
}

// Set makes an instance look like that.
func (e *Engine) Set(uid string, sight machine.Sight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sights[uid] = sight
}

// Starts counts the instances that there were.
func (e *Engine) Starts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.starts
}

// Last is the instance that was started last.
func (e *Engine) Last() machine.Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}
