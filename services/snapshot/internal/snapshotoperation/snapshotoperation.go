// Package snapshotoperation has the rules of a VirtualMachineSnapshotOperation:
// what it asks for, and what it says of how far that is.
//
// It must not know how VMs are made again (package rebuild does).
package snapshotoperation

import (
	"context"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/rebuild"
)

// Type and reasons of the condition (api.md of the platform, A.2).
const (
	typeCompleted = "Completed"

	reasonSnapshotNotFound = "VirtualMachineSnapshotNotFound"
	reasonNotReady         = "NotReadyToBeExecuted"
	reasonCreating         = "CreateVirtualMachineInProgress"
	reasonRestoring        = "RestoreInProgress"
	reasonFailed           = "OperationFailed"
	reasonCompleted        = "OperationCompleted"
)

// Reconciler does operations on snapshots.
type Reconciler struct {
	Engine *rebuild.Engine
	Now    func() time.Time
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, op *snapshotv1.VirtualMachineSnapshotOperation) (reconcile.Result, error) {
	job := jobOf(op)
	if resource.Terminating(op) {
		gone, o, err := r.Engine.Remove(ctx, job)
		return reconcile.Result{Status: r.status(op, o), Finalized: gone && err == nil, After: o.Again}, err
	}
	do := r.Engine.Step
	if modeOf(op) == vmv1.OperationMode_DryRun {
		do = r.Engine.Try
	}
	o, err := do(ctx, job)
	return reconcile.Result{Status: r.status(op, o), After: o.Again}, err
}

func jobOf(op *snapshotv1.VirtualMachineSnapshotOperation) *rebuild.Job {
	meta, spec := op.GetMetadata(), op.GetSpec()
	job := &rebuild.Job{
		Owner: &metav1.Holder{
			Kind: "VirtualMachineSnapshotOperation", Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
		},
		Snapshot: spec.GetVirtualMachineSnapshotName(),
		Images:   rebuild.Refuse,
	}
	if modeOf(op) == vmv1.OperationMode_BestEffort {
		job.Images = rebuild.Drop
	}
	if spec.GetType() == snapshotv1.SnapshotOperationType_RestoreVirtualMachine {
		job.InPlace = true
		return job
	}
	clone := spec.GetCreateVirtualMachine()
	job.Fresh = true
	job.Names.Prefix, job.Names.Suffix = clone.GetCustomization().GetNamePrefix(), clone.GetCustomization().GetNameSuffix()
	for _, one := range clone.GetNameReplacement() {
		job.Names.Replacements = append(job.Names.Replacements, rebuild.Replacement{
			Kind: one.GetFrom().GetKind(), Name: one.GetFrom().GetName(), To: one.GetTo(),
		})
	}
	return job
}

func modeOf(op *snapshotv1.VirtualMachineSnapshotOperation) vmv1.OperationMode_Value {
	if op.GetSpec().GetType() == snapshotv1.SnapshotOperationType_RestoreVirtualMachine {
		return op.GetSpec().GetRestoreVirtualMachine().GetMode()
	}
	return op.GetSpec().GetCreateVirtualMachine().GetMode()
}

// status says what was observed. Of the old status it takes only the time at which
// the condition turned.
func (r *Reconciler) status(op *snapshotv1.VirtualMachineSnapshotOperation, o *rebuild.Progress) *snapshotv1.VirtualMachineSnapshotOperationStatus {
	phase, reason, message := r.judge(op, o)
	list := condition.List{
		Old: op.GetStatus().GetConditions(), Generation: op.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if phase == vmv1.OperationPhase_Completed {
		list.True(typeCompleted, reason, message)
	} else {
		list.False(typeCompleted, reason, message)
	}
	return &snapshotv1.VirtualMachineSnapshotOperationStatus{
		Phase: phase, Conditions: list.Conditions(), Resources: o.Resources(), ObservedGeneration: op.GetMetadata().GetGeneration(),
	}
}

func (r *Reconciler) judge(op *snapshotv1.VirtualMachineSnapshotOperation, o *rebuild.Progress) (vmv1.OperationPhase_Value, string, string) {
	doing := reasonCreating
	if op.GetSpec().GetType() == snapshotv1.SnapshotOperationType_RestoreVirtualMachine {
		doing = reasonRestoring
	}
	switch {
	case resource.Terminating(op):
		return vmv1.OperationPhase_Terminating, doing, messageOf(o.Waits)
	case o.Record.Made:
		if waits := r.Engine.Awaits(jobOf(op), o); waits != "" {
			return vmv1.OperationPhase_InProgress, doing, waits
		}
		return vmv1.OperationPhase_Completed, reasonCompleted, ""
	case o.Failed():
		return vmv1.OperationPhase_Failed, reasonFailed, o.Record.Failure.Message
	case o.Record.Failure != nil:
		return vmv1.OperationPhase_InProgress, doing, o.Record.Failure.Message
	case o.Record.Checked:
		return vmv1.OperationPhase_InProgress, doing, messageOf(o.Waits)
	case o.Waits != nil && o.Waits.Reason == rebuild.ReasonSnapshotNotFound:
		return vmv1.OperationPhase_Pending, reasonSnapshotNotFound, o.Waits.Message
	case o.Record.Tried:
		return vmv1.OperationPhase_Completed, reasonCompleted, "Nothing was done: nothing stands in the way of it."
	}
	return vmv1.OperationPhase_Pending, reasonNotReady, messageOf(o.Waits)
}

func messageOf(f *fault.Fault) string {
	if f == nil {
		return ""
	}
	return f.Message
}
