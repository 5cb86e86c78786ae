package machinesnapshot

import (
	"fmt"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/recipe"
)

// Types and reasons of conditions (api.md of the platform, A.2).
const (
	typeMachineReady = "VirtualMachineReady"
	typeReady        = "VirtualMachineSnapshotReady"

	reasonMachineReady    = "VirtualMachineReady"
	reasonMachineNotReady = "VirtualMachineNotReadyForSnapshotting"
	reasonWaiting         = "WaitingForTheVirtualMachine"
	reasonBlockDevices    = "BlockDevicesNotReady"
	reasonRestart         = "RestartAwaitingChanges"
	reasonInconsistent    = "PotentiallyInconsistent"
	reasonLost            = "VirtualDiskSnapshotLost"
	reasonSnapshotting    = "Snapshotting"
	reasonReady           = "VirtualMachineSnapshotReady"
	reasonFailed          = "VirtualMachineSnapshotFailed"
)

// status says what was observed. Of the old status it takes only the times at
// which conditions turned.
func (r *Reconciler) status(snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) *snapshotv1.VirtualMachineSnapshotStatus {
	failure := failureOf(snapshot, o)
	status := &snapshotv1.VirtualMachineSnapshotStatus{
		Phase: phase(snapshot, o, failure), ObservedGeneration: snapshot.GetMetadata().GetGeneration(),
		Conditions: r.conditions(snapshot, o, failure),
	}
	for _, disk := range o.recipe.Disks {
		status.VirtualDiskSnapshotNames = append(status.VirtualDiskSnapshotNames, disk.Snapshot)
	}
	if o.recipe.Complete {
		status.Resources, status.IncludesMemory = resources(o.recipe), o.recipe.Memory != ""
		if consistent := o.consistent == len(o.recipe.Disks); consistent && failure == nil {
			status.Consistent = &consistent
		}
	}
	return status
}

// failureOf says why a snapshot is not one, nil where it may be.
func failureOf(snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) *recipe.Failure {
	switch {
	case o.recipe.Failure != nil:
		return o.recipe.Failure
	case o.lost != "":
		return &recipe.Failure{Reason: reasonLost, Message: fmt.Sprintf("VirtualDiskSnapshot %s has lost its data.", o.lost)}
	case o.memoryLost:
		return &recipe.Failure{Reason: reasonFailed, Message: "The memory of the guest was not kept, which the snapshot is to include: take another one."}
	case o.recipe.Complete && o.consistent < o.taken && snapshot.GetSpec().GetRequiredConsistency():
		return &recipe.Failure{Reason: reasonFailed, Message: "The file systems were not at rest all the time, which the snapshot requires: take another one."}
	}
	return nil
}

func phase(snapshot *snapshotv1.VirtualMachineSnapshot, o *observation, failure *recipe.Failure) snapshotv1.SnapshotPhase_Value {
	switch {
	case resource.Terminating(snapshot):
		return snapshotv1.SnapshotPhase_Terminating
	case failure != nil:
		return snapshotv1.SnapshotPhase_Failed
	case o.recipe.Complete:
		return snapshotv1.SnapshotPhase_Ready
	case o.waits != nil:
		return snapshotv1.SnapshotPhase_Pending
	}
	return snapshotv1.SnapshotPhase_InProgress
}

func (r *Reconciler) conditions(snapshot *snapshotv1.VirtualMachineSnapshot, o *observation, failure *recipe.Failure) []*metav1.Condition {
	list := condition.List{
		Old: snapshot.GetStatus().GetConditions(), Generation: snapshot.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	switch {
	case o.recipe.Failure != nil:
		list.False(typeMachineReady, reasonMachineNotReady, o.recipe.Failure.Message)
	case o.waits != nil && !resource.Terminating(snapshot):
		list.False(typeMachineReady, reasonMachineNotReady, o.waits.Message)
	default:
		list.True(typeMachineReady, reasonMachineReady, "")
	}
	switch {
	case failure != nil:
		list.False(typeReady, failure.Reason, failure.Message)
	case o.recipe.Complete && !resource.Terminating(snapshot):
		list.True(typeReady, reasonReady, "")
	case o.waits != nil && o.waits.Reason == reasonInconsistent:
		list.False(typeReady, reasonInconsistent, o.waits.Message)
	case o.waits != nil:
		list.False(typeReady, reasonWaiting, o.waits.Message)
	case resource.Terminating(snapshot):
		list.False(typeReady, reasonWaiting, "The snapshot is being deleted.")
	default:
		list.False(typeReady, reasonSnapshotting, fmt.Sprintf("%d of %d disks are taken.", o.taken, len(o.recipe.Disks)))
	}
	return list.Conditions()
}

// resources are what a snapshot has.
func resources(kept *recipe.Recipe) []*snapshotv1.SnapshotResource {
	var all []*snapshotv1.SnapshotResource
	for _, header := range kept.Headers() {
		all = append(all, &snapshotv1.SnapshotResource{ApiVersion: header.APIVersion, Kind: header.Kind, Name: header.Metadata.Name})
	}
	return all
}
