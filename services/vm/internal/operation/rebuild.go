package operation

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

// rebuildPoll is how often it is looked how far a restore or a clone is, or whether
// what it made for itself is gone.
const rebuildPoll = time.Second

// Snapshots makes and finds what restores and clones consist of: a VM snapshot,
// and an operation on it. Make of what is there is no error, nor is Delete of what
// isn't.
type Snapshots interface {
	Snapshot(ctx context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshot, error)
	Operation(ctx context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshotOperation, error)
	Make(ctx context.Context, object resource.Object) error
	Delete(ctx context.Context, object resource.Object) error
}

func rebuilds(kind vmv1.OperationType_Value) bool {
	return kind == vmv1.OperationType_Restore || kind == vmv1.OperationType_Clone
}

// childKey names the objects that a restore or a clone makes: the same each time.
func childKey(op *vmv1.VirtualMachineOperation) resource.Key {
	prefix := "vmop-restore-"
	if op.GetSpec().GetType() == vmv1.OperationType_Clone {
		prefix = "vmop-clone-"
	}
	return resource.Key{Namespace: op.GetMetadata().GetNamespace(), Name: prefix + op.GetMetadata().GetUid()}
}

// rebuild restores or clones a VM (api.md of the platform, B.8): the snapshot
// service does it, and is followed here.
func (r *Reconciler) rebuild(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	result, err := r.ask(ctx, op, vm)
	result.After = rebuildPoll
	if err == nil && r.Snapshots != nil {
		err = r.stage(ctx, op, vm, result.Status)
	}
	return result, err
}

func (r *Reconciler) ask(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	if r.Snapshots == nil {
		return r.fail(op, "NotSupported", "There is no snapshot service here.")
	}
	key := childKey(op)
	child, err := r.Snapshots.Operation(ctx, key)
	if err == nil {
		return r.rebuilding(op, child), nil
	}
	if !fault.Is(err, fault.NotFound) {
		return reconcile.Result{}, err
	}
	if op.GetStatus().GetPhase() != vmv1.OperationPhase_InProgress {
		if reason, message, err := r.mayRebuild(ctx, op, vm); err != nil || reason != "" {
			result, _ := r.fail(op, reason, message)
			return result, err
		}
	}
	if op.GetSpec().GetType() == vmv1.OperationType_Clone {
		ready, result, err := r.photograph(ctx, op, vm)
		if err != nil || !ready {
			return result, err
		}
	}
	if err := r.Snapshots.Make(ctx, childOf(op)); err != nil {
		return reconcile.Result{}, err
	}
	return r.waiting(op, ""), nil
}

// mayRebuild says why a VM can't be restored or cloned; no reason if it can.
func (r *Reconciler) mayRebuild(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reason, message string, err error) {
	kind, phase := op.GetSpec().GetType(), vm.GetStatus().GetPhase()
	if !slices.Contains(ruleOf(kind).phases, phase) {
		return "NotApplicableForVirtualMachinePhase", fmt.Sprintf("%s does not apply to a VM in phase %s.", kind, phaseName(phase)), nil
	}
	other, err := r.older(op)
	if err != nil {
		return "", "", err
	}
	if other != nil {
		return "OtherOperationsAreInProgress", fmt.Sprintf("Operation %s is not finished yet.", other.GetMetadata().GetName()), nil
	}
	if kind == vmv1.OperationType_Clone {
		agent := condition.Find(vm.GetStatus().GetConditions(), "AgentReady")
		if phase == vmv1.VirtualMachinePhase_Running && agent.GetStatus() != metav1.ConditionStatus_True {
			return "NotReadyToBeExecuted", "The VM runs and its guest agent does not answer, so that its disks can't be brought to rest: stop it, or install the agent.", nil
		}
		return "", "", nil
	}
	name := op.GetSpec().GetRestore().GetVirtualMachineSnapshotName()
	snapshot, err := r.Snapshots.Snapshot(ctx, resource.Key{Namespace: op.GetMetadata().GetNamespace(), Name: name})
	switch of := snapshot.GetSpec().GetVirtualMachineName(); {
	case fault.Is(err, fault.NotFound):
		return "NotReadyToBeExecuted", fmt.Sprintf("VirtualMachineSnapshot %s does not exist.", name), nil
	case err == nil && of != vm.GetMetadata().GetName():
		return "NotReadyToBeExecuted", fmt.Sprintf("VirtualMachineSnapshot %s is one of VirtualMachine %s.", name, of), nil
	}
	return "", "", err
}

// photograph takes the snapshot that a clone is made from, and reports whether it
// is there.
func (r *Reconciler) photograph(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (bool, reconcile.Result, error) {
	key, required := childKey(op), true
	snapshot, err := r.Snapshots.Snapshot(ctx, key)
	if fault.Is(err, fault.NotFound) {
		err = r.Snapshots.Make(ctx, &snapshotv1.VirtualMachineSnapshot{
			Metadata: childMeta(op),
			Spec: &snapshotv1.VirtualMachineSnapshotSpec{
				VirtualMachineName: vm.GetMetadata().GetName(), RequiredConsistency: &required,
				KeepIpAddress: snapshotv1.KeepIPAddress_Never,
			},
		})
	}
	if err != nil {
		return false, reconcile.Result{}, err
	}
	ready := condition.Find(snapshot.GetStatus().GetConditions(), "VirtualMachineSnapshotReady")
	switch snapshot.GetStatus().GetPhase() {
	case snapshotv1.SnapshotPhase_Ready:
		return true, reconcile.Result{}, nil
	case snapshotv1.SnapshotPhase_Failed:
		result, err := r.fail(op, "OperationFailed", "The snapshot that the clone is made from was not taken: "+ready.GetMessage())
		return false, result, err
	}
	return false, r.waiting(op, ready.GetMessage()), nil
}

// childOf is the operation on a snapshot that does it.
func childOf(op *vmv1.VirtualMachineOperation) *snapshotv1.VirtualMachineSnapshotOperation {
	child := &snapshotv1.VirtualMachineSnapshotOperation{Metadata: childMeta(op)}
	if op.GetSpec().GetType() == vmv1.OperationType_Clone {
		child.Spec = &snapshotv1.VirtualMachineSnapshotOperationSpec{
			Type:                       snapshotv1.SnapshotOperationType_CreateVirtualMachine,
			VirtualMachineSnapshotName: child.GetMetadata().GetName(), CreateVirtualMachine: op.GetSpec().GetClone(),
		}
		return child
	}
	restore := op.GetSpec().GetRestore()
	child.Spec = &snapshotv1.VirtualMachineSnapshotOperationSpec{
		Type:                       snapshotv1.SnapshotOperationType_RestoreVirtualMachine,
		VirtualMachineSnapshotName: restore.GetVirtualMachineSnapshotName(),
		RestoreVirtualMachine:      &snapshotv1.SnapshotOperationRestore{Mode: restore.GetMode()},
	}
	return child
}

func childMeta(op *vmv1.VirtualMachineOperation) *metav1.ObjectMeta {
	key, controller := childKey(op), true
	return &metav1.ObjectMeta{
		Namespace: key.Namespace, Name: key.Name,
		OwnerReferences: []*metav1.OwnerReference{{
			ApiVersion: op.GetApiVersion(), Kind: op.GetKind(), Name: op.GetMetadata().GetName(),
			Uid: op.GetMetadata().GetUid(), Controller: &controller,
		}},
	}
}

// rebuilding tells of an operation what its child tells of itself.
func (r *Reconciler) rebuilding(op *vmv1.VirtualMachineOperation, child *snapshotv1.VirtualMachineSnapshotOperation) reconcile.Result {
	completed := condition.Find(child.GetStatus().GetConditions(), "Completed")
	var result reconcile.Result
	switch child.GetStatus().GetPhase() {
	case vmv1.OperationPhase_Completed:
		result = r.result(op, vmv1.OperationPhase_Completed, "OperationCompleted", completed.GetMessage())
	case vmv1.OperationPhase_Failed:
		result = r.result(op, vmv1.OperationPhase_Failed, "OperationFailed", completed.GetMessage())
	default:
		result = r.waiting(op, completed.GetMessage())
	}
	if status, ok := result.Status.(*vmv1.VirtualMachineOperationStatus); ok {
		status.Resources = child.GetStatus().GetResources()
	}
	return result
}

func (r *Reconciler) waiting(op *vmv1.VirtualMachineOperation, message string) reconcile.Result {
	return r.result(op, vmv1.OperationPhase_InProgress, ruleOf(op.GetSpec().GetType()).progress, message)
}

// clear deletes what a restore or a clone made for itself, the operation first, and
// reports whether all is gone. A snapshot goes when the disks are made from it.
func (r *Reconciler) clear(ctx context.Context, op *vmv1.VirtualMachineOperation) (bool, error) {
	if r.Snapshots == nil || !rebuilds(op.GetSpec().GetType()) {
		return true, nil
	}
	key := childKey(op)
	child, err := r.Snapshots.Operation(ctx, key)
	if err == nil {
		return false, r.Snapshots.Delete(ctx, child)
	}
	if !fault.Is(err, fault.NotFound) || op.GetSpec().GetType() != vmv1.OperationType_Clone {
		return fault.Is(err, fault.NotFound), ignoreMissing(err)
	}
	snapshot, err := r.Snapshots.Snapshot(ctx, key)
	if err == nil {
		return false, r.Snapshots.Delete(ctx, snapshot)
	}
	return fault.Is(err, fault.NotFound), ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
