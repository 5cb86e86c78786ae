package machine

import (
	"context"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// Rest lets file systems go on.
type Rest interface {
	// Thaw has a guest's file systems go on, now or as soon as its agent answers.
	// Idempotent.
	Thaw(ctx context.Context, uid string) error
}

// recall has a new instance go on from the memory that was kept for it: once and
// never again, since its disks go on with it. One that can't is booted, and says
// why.
func (r *Reconciler) recall(ctx context.Context, instance Instance, o *observation) error {
	memory := o.record.Memory
	if !memory.Usable() {
		return nil
	}
	atRest, err := r.Engine.Recall(ctx, instance, memory.Token)
	switch {
	case err == nil:
		memory.Used, memory.AtRest = true, atRest
	case fault.Is(err, fault.Invalid):
		memory.Problem = fault.From(err).Message
	default:
		return err
	}
	return r.Power.Put(ctx, instance.UID, o.record)
}

// thaw has the file systems of a guest go on that were at rest when its memory was
// kept.
func (r *Reconciler) thaw(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	memory := o.record.Memory
	if memory == nil || !memory.Used || o.sight.State != Running {
		return nil
	}
	uid := vm.GetMetadata().GetUid()
	if memory.AtRest {
		if err := r.Rest.Thaw(ctx, uid); err != nil {
			return err
		}
	}
	o.record.Memory = nil
	return r.Power.Put(ctx, uid, o.record)
}
