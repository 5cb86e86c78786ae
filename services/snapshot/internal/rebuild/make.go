package rebuild

import (
	"context"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/recipe"
)

// make makes what is not made yet. A job that was cut short finds its mark on what
// it has made.
func (e *Engine) make(ctx context.Context, job *Job, o *Progress, p *plan) error {
	if off, err := e.turnOff(ctx, job, o, p); err != nil || !off {
		return e.stumble(ctx, job, o, err)
	}
	if err := e.makeSecret(ctx, job, p); err != nil {
		return e.stumble(ctx, job, o, err)
	}
	if o.Record.Machine != "" && !o.Record.Swapping {
		o.Record.Swapping = true
		if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
			return err
		}
	}
	for _, object := range p.objects() {
		if err := e.supply(ctx, job, p, object); err != nil {
			return e.stumble(ctx, job, o, err)
		}
	}
	if job.InPlace {
		if err := e.detach(ctx, p); err != nil {
			return e.stumble(ctx, job, o, err)
		}
	}
	o.Record.Made, o.Record.Memory = true, p.memory
	if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
		return err
	}
	return e.finish(ctx, job, o)
}

// turnOff has a VM that is put back turned off, and reports whether it is.
func (e *Engine) turnOff(ctx context.Context, job *Job, o *Progress, p *plan) (bool, error) {
	vm, there := e.Objects.Machine(resource.KeyOf(p.machine))
	if !job.InPlace || !there || marked(vm, job) && o.Record.Machine == "" {
		return true, nil
	}
	if uid := vm.GetMetadata().GetUid(); o.Record.Machine != uid {
		o.Record.Machine = uid
		if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
			return false, err
		}
	}
	off, err := e.Maker.TurnOff(ctx, vm, job.Owner)
	if err != nil || off {
		return off, err
	}
	o.Waits = fault.New(fault.NotReady, ReasonNotStopped, "VirtualMachine %s is shutting down.", p.machine.GetMetadata().GetName())
	o.Again = lookAgain
	return false, nil
}

func (e *Engine) makeSecret(ctx context.Context, job *Job, p *plan) error {
	if p.secret == nil {
		return nil
	}
	key := resource.Key{Namespace: job.Owner.GetNamespace(), Name: p.secret.Name}
	err := e.Maker.MakeSecret(ctx, key, secretOf(p.secret, job.Owner.GetUid()))
	if fault.Is(err, fault.Exists) { // the same content was looked for before
		return nil
	}
	return err
}

// supply makes an object, or puts back the one that is there.
func (e *Engine) supply(ctx context.Context, job *Job, p *plan, object resource.Object) error {
	err := e.Maker.Create(ctx, object)
	if !fault.Is(err, fault.Exists) {
		return err
	}
	if kind := object.GetKind(); kind == kindAddress || kind == kindMAC {
		return nil // it was looked at before: it is used
	}
	found, err := e.Maker.Find(ctx, object.GetKind(), resource.KeyOf(object))
	switch {
	case err != nil:
		return err
	case marked(found, job):
		return nil
	case !job.InPlace:
		return fault.New(fault.Exists, ReasonConflict, "%s was made by somebody else in between",
			describe(object.GetKind(), object.GetMetadata().GetName()))
	}
	switch found := found.(type) {
	case *diskv1.VirtualDisk:
		return e.Maker.Revert(ctx, found, capture.LayerOf(p.source(object.GetMetadata().GetName())))
	case *vmv1.VirtualMachine:
		return e.Maker.UpdateMachine(ctx, overwritten(found, p.machine), false)
	}
	return nil // an attachment, which was looked at before
}

// marked reports whether the job made, or put back, an object.
func marked(object resource.Object, job *Job) bool {
	return object.GetMetadata().GetAnnotations()[markAnnotation] == job.Owner.GetUid()
}

// detach deletes the attachments that the VM has and the snapshot has not.
func (e *Engine) detach(ctx context.Context, p *plan) error {
	for _, attachment := range e.Objects.Attachments(resource.KeyOf(p.machine)) {
		if p.has(attachment.GetMetadata().GetName()) {
			continue
		}
		if err := e.Maker.Delete(ctx, attachment); err != nil {
			return err
		}
	}
	return nil
}

// stumble takes back what was made after an error that doesn't pass, unless disks
// are being put back: then it is tried again.
func (e *Engine) stumble(ctx context.Context, job *Job, o *Progress, cause error) error {
	if cause == nil {
		return nil
	}
	o.Waits = fault.From(cause)
	if !gone(cause) || o.Record.Swapping {
		return cause
	}
	reason := ReasonFailed
	if fault.Is(cause, fault.Exists) {
		reason = ReasonConflict
	}
	return e.fail(ctx, job, o, recipe.Failure{Reason: reason, Message: "Nothing is left of it: " + fault.From(cause).Message})
}

func (e *Engine) fail(ctx context.Context, job *Job, o *Progress, failure recipe.Failure) error {
	o.Record.Failure, o.Record.Undone = &failure, !o.Record.Checked
	if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
		return err
	}
	return e.undo(ctx, job, o)
}

// undo takes back what was made, the last first.
func (e *Engine) undo(ctx context.Context, job *Job, o *Progress) error {
	if o.Record.Undone {
		return e.finish(ctx, job, o)
	}
	if snapshot, found := e.Snapshots.Snapshot(job.snapshotKey()); found {
		kept, err := e.Recipes.Get(ctx, snapshot.GetMetadata().GetUid())
		if err != nil {
			return err
		}
		left, err := e.takeBack(ctx, job, kept)
		if err != nil {
			return err
		}
		if left {
			o.Again = lookAgain
			return nil
		}
	}
	o.Record.Undone = true
	if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
		return err
	}
	return e.finish(ctx, job, o)
}

// takeBack deletes what has the mark, and reports whether something is left.
func (e *Engine) takeBack(ctx context.Context, job *Job, kept *recipe.Recipe) (bool, error) {
	p, err := newPlan(kept, job)
	if err != nil {
		return false, err
	}
	left := false
	objects := p.objects()
	for i := len(objects) - 1; i >= 0; i-- {
		found, err := e.Maker.Find(ctx, objects[i].GetKind(), resource.KeyOf(objects[i]))
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return true, err
		}
		if !marked(found, job) {
			continue
		}
		left = true
		if err := e.Maker.Delete(ctx, found); err != nil {
			return true, err
		}
	}
	if p.secret == nil {
		return left, nil
	}
	key := resource.Key{Namespace: job.Owner.GetNamespace(), Name: p.secret.Name}
	return left, e.Maker.DeleteSecret(ctx, key, job.Owner.GetUid())
}
