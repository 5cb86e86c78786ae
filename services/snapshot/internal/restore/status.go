package restore

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/rebuild"
)

// Types and reasons of conditions (api.md of the platform, B.8).
const (
	typeSnapshotReady = "VirtualMachineSnapshotReadyToUse"
	typeReady         = "VirtualMachineRestoreReady"

	reasonSnapshotReady = "VirtualMachineSnapshotReadyToUse"
	reasonNotReadyToUse = "VirtualMachineSnapshotNotReadyToUse"
	reasonReady         = "VirtualMachineRestoreReady"
)

// status says what was observed. Of the old status it takes only the times at
// which conditions turned.
func (r *Reconciler) status(restore *snapshotv1.VirtualMachineRestore, o *rebuild.Progress) *snapshotv1.VirtualMachineRestoreStatus {
	return &snapshotv1.VirtualMachineRestoreStatus{
		Phase: phase(restore, o), ObservedGeneration: restore.GetMetadata().GetGeneration(), Conditions: r.conditions(restore, o),
	}
}

func phase(restore *snapshotv1.VirtualMachineRestore, o *rebuild.Progress) snapshotv1.RestorePhase_Value {
	switch {
	case resource.Terminating(restore):
		return snapshotv1.RestorePhase_Terminating
	case o.Record.Made:
		return snapshotv1.RestorePhase_Ready
	case o.Failed():
		return snapshotv1.RestorePhase_Failed
	case o.Waits != nil && !o.Record.Checked:
		return snapshotv1.RestorePhase_Pending
	}
	return snapshotv1.RestorePhase_InProgress
}

func (r *Reconciler) conditions(restore *snapshotv1.VirtualMachineRestore, o *rebuild.Progress) []*metav1.Condition {
	list := condition.List{
		Old: restore.GetStatus().GetConditions(), Generation: restore.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if o.Waits != nil && !o.Record.Checked {
		list.False(typeSnapshotReady, o.Waits.Reason, o.Waits.Message)
		list.False(typeReady, reasonNotReadyToUse, o.Waits.Message)
		return list.Conditions()
	}
	list.True(typeSnapshotReady, reasonSnapshotReady, "")
	switch {
	case o.Record.Made:
		list.True(typeReady, reasonReady, "")
	case o.Record.Failure != nil:
		list.False(typeReady, o.Record.Failure.Reason, o.Record.Failure.Message)
	case o.Waits != nil:
		list.False(typeReady, o.Waits.Reason, o.Waits.Message)
	default:
		list.Unknown(typeReady, "Unknown", "The VM is being made.")
	}
	return list.Conditions()
}
