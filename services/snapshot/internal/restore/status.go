package restore

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

// Types and reasons of conditions (api.md of the platform, B.8).
const (
	typeSnapshotReady = "VirtualMachineSnapshotReadyToUse"
	typeReady         = "VirtualMachineRestoreReady"

	reasonSnapshotNotFound = "VirtualMachineSnapshotNotFound"
	reasonSnapshotNotReady = "VirtualMachineSnapshotNotReady"
	reasonSnapshotReady    = "VirtualMachineSnapshotReadyToUse"
	reasonNotReadyToUse    = "VirtualMachineSnapshotNotReadyToUse"
	reasonConflict         = "VirtualMachineRestoreConflict"
	reasonFailed           = "VirtualMachineRestoreFailed"
	reasonReady            = "VirtualMachineRestoreReady"
)

// status says what was observed. Of the old status it takes only the times at
// which conditions turned.
func (r *Reconciler) status(restore *snapshotv1.VirtualMachineRestore, o *observation) *snapshotv1.VirtualMachineRestoreStatus {
	return &snapshotv1.VirtualMachineRestoreStatus{
		Phase: phase(restore, o), ObservedGeneration: restore.GetMetadata().GetGeneration(), Conditions: r.conditions(restore, o),
	}
}

func phase(restore *snapshotv1.VirtualMachineRestore, o *observation) snapshotv1.RestorePhase_Value {
	switch {
	case resource.Terminating(restore):
		return snapshotv1.RestorePhase_Terminating
	case o.record.Made:
		return snapshotv1.RestorePhase_Ready
	case o.record.Failure != nil && o.record.Undone:
		return snapshotv1.RestorePhase_Failed
	case o.waits != nil:
		return snapshotv1.RestorePhase_Pending
	}
	return snapshotv1.RestorePhase_InProgress
}

func (r *Reconciler) conditions(restore *snapshotv1.VirtualMachineRestore, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: restore.GetStatus().GetConditions(), Generation: restore.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if o.waits != nil {
		list.False(typeSnapshotReady, o.waits.Reason, o.waits.Message)
		list.False(typeReady, reasonNotReadyToUse, o.waits.Message)
		return list.Conditions()
	}
	list.True(typeSnapshotReady, reasonSnapshotReady, "")
	switch {
	case o.record.Made:
		list.True(typeReady, reasonReady, "")
	case o.record.Failure != nil:
		list.False(typeReady, o.record.Failure.Reason, o.record.Failure.Message)
	default:
		list.Unknown(typeReady, "Unknown", "The VM is being made.")
	}
	return list.Conditions()
}
