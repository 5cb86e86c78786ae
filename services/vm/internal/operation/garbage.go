package operation

import (
	"context"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
)

const (
	// keptFor is how long a finished operation stays, keptMost how many of one VM
	// do (api.md, B.4).
	keptFor  = 24 * time.Hour
	keptMost = 10
)

// collect deletes an operation that was finished long ago, or before many others.
func (r *Reconciler) collect(ctx context.Context, op *vmv1.VirtualMachineOperation) (reconcile.Result, error) {
	all, err := r.Others(op.GetMetadata().GetNamespace())
	if err != nil {
		return reconcile.Result{}, err
	}
	finished, later := finishedAt(op), 0
	for _, other := range all {
		same := other.GetSpec().GetVirtualMachineName() == op.GetSpec().GetVirtualMachineName()
		if !same || !Finished(other) || other.GetMetadata().GetUid() == op.GetMetadata().GetUid() {
			continue
		}
		at := finishedAt(other)
		if at.After(finished) || at.Equal(finished) && before(op.GetMetadata(), other.GetMetadata()) {
			later++
		}
	}
	if left := keptFor - r.Now().Sub(finished); left > 0 && later < keptMost {
		return reconcile.Result{After: left}, nil
	}
	if err := r.Delete(ctx, op); err != nil && !fault.Is(err, fault.NotFound) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

func finishedAt(op *vmv1.VirtualMachineOperation) time.Time {
	if c := condition.Find(op.GetStatus().GetConditions(), "Completed"); c != nil {
		return c.GetLastTransitionTime().AsTime()
	}
	return op.GetMetadata().GetCreationTimestamp().AsTime()
}
