package machine

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/placement"
)

// waiting are VMs that found no room when they were last looked at.
type waiting struct {
	mu   sync.Mutex
	keys map[resource.Key]bool
}

func (w *waiting) add(key resource.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys == nil {
		w.keys = map[resource.Key]bool{}
	}
	w.keys[key] = true
}

func (w *waiting) remove(key resource.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.keys, key)
}

func (w *waiting) has(key resource.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keys[key]
}

// list returns those that wait, take those among them that match, and forgets
// them.
func (w *waiting) list() []resource.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.keys))
}

func (w *waiting) take(match func(resource.Key) bool) []resource.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	var taken []resource.Key
	for key := range w.keys {
		if match(key) {
			taken = append(taken, key)
			delete(w.keys, key)
		}
	}
	return taken
}

// Waiting lists the VMs that wait for room on a node: whoever sees that a node,
// or a VM on it, has changed wakes them.
func (r *Reconciler) Waiting() []resource.Key { return r.waiting.list() }

// place chooses a node and writes down all that the instance is to be.
func (r *Reconciler) place(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	applied, err := protojson.Marshal(vm.GetSpec())
	if err != nil {
		return err
	}
	pins, err := r.pins(ctx, vm, o)
	if err != nil {
		return err
	}
	guest, err := placement.Read(vm, o.class)
	if err != nil {
		return err
	}
	demand := r.demandOf(vm.GetSpec())
	guest.Demand = demand
	// From here on whoever sees room become free wakes the VM: also while it is
	// being judged.
	r.waiting.add(resource.KeyOf(vm))
	if _, err := r.Survey.Priority(ctx, vm.GetSpec()); err != nil {
		return err
	}
	r.placing.Lock()
	defer r.placing.Unlock()
	world, err := r.Survey.World(ctx)
	if err != nil {
		return err
	}
	name, err := world.Place(guest, pins)
	if err != nil {
		return err
	}
	r.waiting.remove(resource.KeyOf(vm))
	now := r.Now()
	o.record.UID = vm.GetMetadata().GetUid()
	o.record.Node, o.record.Applied, o.record.Started = name, json.RawMessage(applied), &now
	o.record.MilliCPU, o.record.MemoryBytes = demand.MilliCPU, demand.MemoryBytes
	o.record.Provisioned = o.provisioned
	o.record.Instance++
	o.record.Awaits, o.record.Pinned = o.awaits, slices.Sorted(maps.Keys(pins))
	// Whatever was asked of an earlier instance is done with this one. From now on
	// a VM that becomes Manual stays as it is.
	on := true
	o.record.On, o.record.Restart, o.record.Force, o.record.StopSince = &on, "", false, nil
	o.record.NotBefore, o.record.Waited = nil, r.waited(vm, o, now)
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}
