package operation

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
)

// Conditions of restores and clones besides those of all operations (api.md of the
// platform, A.2).
const (
	typeMaintenance = "MaintenanceMode"
	typeSnapshot    = "SnapshotReady"

	reasonCleanedUp = "SnapshotCleanedUp"
)

// stage adds what is true of a restore or a clone alone: whether the VM is kept off
// for it, and how its snapshot is.
func (r *Reconciler) stage(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine, told proto.Message) error {
	status, ok := told.(*vmv1.VirtualMachineOperationStatus)
	if !ok {
		return nil
	}
	list := condition.List{Old: op.GetStatus().GetConditions(), Generation: op.GetMetadata().GetGeneration(), Now: r.Now()}
	add := r.addSnapshot
	if op.GetSpec().GetType() == vmv1.OperationType_Restore {
		add = r.addMaintenance
	}
	err := add(ctx, op, vm, &list)
	status.Conditions = append(status.Conditions, list.Conditions()...)
	return err
}

func (r *Reconciler) addMaintenance(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine, list *condition.List) error {
	record, err := r.Power.Get(ctx, vm.GetMetadata().GetUid())
	if err != nil {
		return err
	}
	if by := record.Maintenance; by != nil && by.Name == childKey(op).Name {
		list.True(typeMaintenance, "MaintenanceModeEnabled", "The VM is kept off.")
	} else {
		list.False(typeMaintenance, "MaintenanceModeDisabled", "")
	}
	return nil
}

func (r *Reconciler) addSnapshot(ctx context.Context, op *vmv1.VirtualMachineOperation, _ *vmv1.VirtualMachine, list *condition.List) error {
	snapshot, err := r.Snapshots.Snapshot(ctx, childKey(op))
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	ready := condition.Find(snapshot.GetStatus().GetConditions(), "VirtualMachineSnapshotReady")
	switch snapshot.GetStatus().GetPhase() {
	case snapshotv1.SnapshotPhase_Ready:
		list.True(typeSnapshot, "SnapshotReady", "")
	case snapshotv1.SnapshotPhase_Failed:
		list.False(typeSnapshot, "SnapshotFailed", ready.GetMessage())
	default:
		list.False(typeSnapshot, "SnapshotInProgress", ready.GetMessage())
	}
	return nil
}

// tidy clears away what a finished operation made for itself, and then itself.
func (r *Reconciler) tidy(ctx context.Context, op *vmv1.VirtualMachineOperation) (reconcile.Result, error) {
	if clear, err := r.clear(ctx, op); err != nil || !clear {
		return reconcile.Result{After: rebuildPoll}, err
	}
	taken := condition.Find(op.GetStatus().GetConditions(), typeSnapshot)
	if taken == nil || taken.GetReason() == reasonCleanedUp {
		return r.collect(ctx, op)
	}
	status := proto.CloneOf(op.GetStatus())
	list := condition.List{Old: status.GetConditions(), Generation: op.GetMetadata().GetGeneration(), Now: r.Now()}
	list.False(typeSnapshot, reasonCleanedUp, "")
	status.Conditions = slices.DeleteFunc(status.GetConditions(), func(c *metav1.Condition) bool { return c.GetType() == typeSnapshot })
	status.Conditions = append(status.Conditions, list.Conditions()...)
	return reconcile.Result{Status: status, After: rebuildPoll}, nil
}
