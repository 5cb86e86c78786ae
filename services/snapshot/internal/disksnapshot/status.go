package disksnapshot

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
)

const (
	typeDiskReady = "VirtualDiskReady"
	typeReady     = "VirtualDiskSnapshotReady"
)

// status says what was observed. Of the old status it takes only the times at
// which conditions turned.
func (r *Reconciler) status(snapshot *snapshotv1.VirtualDiskSnapshot, o *observation) *snapshotv1.VirtualDiskSnapshotStatus {
	meta := snapshot.GetMetadata()
	o.judge(snapshot)
	status := &snapshotv1.VirtualDiskSnapshotStatus{
		Phase: phase(snapshot, o), ObservedGeneration: meta.GetGeneration(), Conditions: r.conditions(snapshot, o),
	}
	if resource.Terminating(snapshot) {
		status.Consistent, status.VolumeSnapshotName = snapshot.GetStatus().Consistent, snapshot.GetStatus().GetVolumeSnapshotName()
	}
	if o.taken != nil {
		status.VolumeSnapshotName = capture.LayerOf(meta.GetUid())
		if o.taken.Consistent {
			status.Consistent = &o.taken.Consistent
		}
	}
	return status
}

// judge finds what makes a snapshot a failed one.
func (o *observation) judge(snapshot *snapshotv1.VirtualDiskSnapshot) {
	switch {
	case o.lost:
		o.failed = fault.New(fault.Invalid, reasonLost, "The snapshot's data is gone from the storage.")
	case o.taken != nil && !o.taken.Consistent && snapshot.GetSpec().GetRequiredConsistency():
		o.failed = fault.New(fault.Invalid, reasonFailed,
			"The disk was in use and its file systems were not at rest all the time, which the snapshot requires: take another one.")
	case o.begun && o.waits != nil && o.waits.Class == fault.NotFound:
		o.failed = fault.New(fault.Invalid, reasonFailed, "VirtualDisk %s went while the snapshot was taken.", snapshot.GetSpec().GetVirtualDiskName())
	}
}

func phase(snapshot *snapshotv1.VirtualDiskSnapshot, o *observation) snapshotv1.SnapshotPhase_Value {
	switch {
	case resource.Terminating(snapshot):
		return snapshotv1.SnapshotPhase_Terminating
	case o.failed != nil:
		return snapshotv1.SnapshotPhase_Failed
	case o.taken != nil:
		return snapshotv1.SnapshotPhase_Ready
	case o.waits != nil:
		return snapshotv1.SnapshotPhase_Pending
	}
	return snapshotv1.SnapshotPhase_InProgress
}

func (r *Reconciler) conditions(snapshot *snapshotv1.VirtualDiskSnapshot, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: snapshot.GetStatus().GetConditions(), Generation: snapshot.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if o.waits != nil && o.failed == nil && !resource.Terminating(snapshot) {
		list.False(typeDiskReady, reasonDiskNotReady, o.waits.Message)
	} else {
		list.True(typeDiskReady, reasonDiskReady, "")
	}
	switch {
	case o.failed != nil:
		list.False(typeReady, o.failed.Reason, o.failed.Message)
	case o.taken != nil:
		list.True(typeReady, reasonReady, "")
	case o.waits != nil && o.waits.Reason == reasonInconsistent:
		list.False(typeReady, reasonInconsistent, o.waits.Message)
	case o.waits != nil:
		list.False(typeReady, reasonWaiting, o.waits.Message)
	case resource.Terminating(snapshot):
		list.False(typeReady, reasonWaiting, "The snapshot is being deleted.")
	default:
		list.False(typeReady, reasonSnapshotting, "The disk is being frozen.")
	}
	return list.Conditions()
}
