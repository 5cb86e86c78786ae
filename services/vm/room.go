package vm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
)

// room remembers of each VM what decides whether others find room beside it.
type room struct {
	mu   sync.Mutex
	seen map[resource.Key]string
}

// moved reports whether something of that changed.
func (r *room) moved(event resource.Event[*vmv1.VirtualMachine]) bool {
	vm, key := event.Object, resource.KeyOf(event.Object)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[resource.Key]string{}
	}
	before := r.seen[key]
	if event.Type == resource.Deleted {
		delete(r.seen, key)
		return before != ""
	}
	node := vm.GetStatus().GetNodeName()
	now := ""
	if node != "" {
		now = fmt.Sprint(node, vm.GetMetadata().GetLabels(), vm.GetStatus().GetResources().GetMemory().GetSize())
	}
	r.seen[key] = now
	return before != now
}

// roomChanged wakes the VMs that wait for room when a VM came, went, moved, or
// has other labels.
func (s *Service) roomChanged(event resource.Event[*vmv1.VirtualMachine]) {
	if s.room.moved(event) {
		s.wakeWaiting()
	}
}

// wakeWaiting lets the VMs that found no room look again: those of the highest
// priority first, then those that were made first.
func (s *Service) wakeWaiting() {
	type waiter struct {
		key      resource.Key
		priority int32
		made     time.Time
	}
	var waiters []waiter
	for _, key := range s.rules.Waiting() {
		vm, found := s.Machine(key)
		if !found {
			continue
		}
		// One whose class does not exist is last, and says so again.
		priority, _ := s.survey.Priority(context.Background(), vm.GetSpec())
		waiters = append(waiters, waiter{key, priority, vm.GetMetadata().GetCreationTimestamp().AsTime()})
	}
	slices.SortFunc(waiters, func(a, b waiter) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), a.made.Compare(b.made))
	})
	for _, w := range waiters {
		s.machines.loop.Trigger(w.key)
	}
}
