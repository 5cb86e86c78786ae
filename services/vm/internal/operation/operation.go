// Package operation has the rules of a VirtualMachineOperation: when it may be
// done, what it asks of its VM, when it is done.
//
// Of the VM it changes the power record only; package machine does the rest. VMs
// are restored and cloned by the snapshot service, which it asks and follows.
package operation

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/power"
)

// Machines finds VMs, and wakes what runs them.
type Machines interface {
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
	Wake(key resource.Key)
}

// Reconciler does operations.
type Reconciler struct {
	Machines Machines
	Power    *power.Store
	// Others lists the operations of a namespace.
	Others func(namespace string) ([]*vmv1.VirtualMachineOperation, error)
	// Delete asks for an operation to go.
	Delete func(ctx context.Context, op *vmv1.VirtualMachineOperation) error
	// Migrations tells how far a migration is.
	Migrations migration.Engine
	// Snapshots restores and clones VMs; nil where there is no snapshot service.
	Snapshots Snapshots
	Now       func() time.Time
}

// rule says when an operation may begin (api.md of the platform, B.4).
type rule struct {
	phases   []vmv1.VirtualMachinePhase_Value
	policies []vmv1.RunPolicy_Value
	progress string
}

func ruleOf(kind vmv1.OperationType_Value) rule {
	manual := []vmv1.RunPolicy_Value{vmv1.RunPolicy_Manual, vmv1.RunPolicy_AlwaysOnUnlessStoppedManually}
	up := []vmv1.VirtualMachinePhase_Value{
		vmv1.VirtualMachinePhase_Running, vmv1.VirtualMachinePhase_Degraded,
		vmv1.VirtualMachinePhase_Starting, vmv1.VirtualMachinePhase_Pause,
	}
	switch kind {
	case vmv1.OperationType_Start:
		down := []vmv1.VirtualMachinePhase_Value{vmv1.VirtualMachinePhase_Stopped, vmv1.VirtualMachinePhase_Stopping}
		return rule{down, manual, "StartInProgress"}
	case vmv1.OperationType_Stop:
		return rule{append(up, vmv1.VirtualMachinePhase_Pending), manual, "StopInProgress"}
	case vmv1.OperationType_Restart:
		return rule{up, append(manual, vmv1.RunPolicy_AlwaysOn), "RestartInProgress"}
	case vmv1.OperationType_Evict, vmv1.OperationType_Migrate:
		up := []vmv1.VirtualMachinePhase_Value{vmv1.VirtualMachinePhase_Running}
		return rule{up, append(manual, vmv1.RunPolicy_AlwaysOn), migration.ReasonPending}
	case vmv1.OperationType_Restore, vmv1.OperationType_Clone:
		some := []vmv1.VirtualMachinePhase_Value{
			vmv1.VirtualMachinePhase_Running, vmv1.VirtualMachinePhase_Stopped, vmv1.VirtualMachinePhase_Pending,
		}
		return rule{some, append(manual, vmv1.RunPolicy_AlwaysOn, vmv1.RunPolicy_AlwaysOff), kind.String() + "InProgress"}
	}
	return rule{}
}

// Reconcile implements reconcile.Reconciler. Whether the operation was begun is
// known from a mark on its VM's power record, whether it is done from the VM.
func (r *Reconciler) Reconcile(ctx context.Context, op *vmv1.VirtualMachineOperation) (reconcile.Result, error) {
	if op.GetMetadata().GetDeletionTimestamp() != nil {
		return r.leave(ctx, op)
	}
	if Finished(op) {
		return r.tidy(ctx, op)
	}
	key := resource.Key{Namespace: op.GetMetadata().GetNamespace(), Name: op.GetSpec().GetVirtualMachineName()}
	vm, found := r.Machines.Machine(key)
	if !found {
		return r.fail(op, "VirtualMachineNotFound", fmt.Sprintf("VirtualMachine %s does not exist.", key.Name))
	}
	if rebuilds(op.GetSpec().GetType()) {
		return r.rebuild(ctx, op, vm)
	}
	return r.signal(ctx, op, vm)
}

// signal tells the VM what the operation wants, once, and follows it.
func (r *Reconciler) signal(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	record, err := r.Power.Get(ctx, vm.GetMetadata().GetUid())
	if err != nil {
		return reconcile.Result{}, err
	}
	if m := ours(op, record); m != nil {
		return r.follow(ctx, op, vm, m)
	}
	switch kind, policy := op.GetSpec().GetType(), vm.GetSpec().GetRunPolicy(); {
	case record.Operation == op.GetMetadata().GetUid() && done(op, vm, record):
		return r.complete(op), nil
	case len(ruleOf(kind).phases) == 0:
		return r.fail(op, "NotSupported", fmt.Sprintf("Operations of type %s are not supported yet.", kind))
	case !slices.Contains(ruleOf(kind).policies, policy):
		// Also of one that was begun: with this policy it would never end.
		return r.fail(op, "NotApplicableForVirtualMachineRunPolicy",
			fmt.Sprintf("%s does not apply to a VM with run policy %s.", kind, policy))
	case record.Operation == op.GetMetadata().GetUid():
		return r.progress(op), nil
	case migrates(kind) && record.Migration.Active():
		return r.fail(op, "OtherMigrationInProgress", "The VM's last migration has not ended yet.")
	case op.GetStatus().GetPhase() == vmv1.OperationPhase_InProgress:
		// It was begun, and its mark is gone. It must not be done twice.
		return r.fail(op, "OperationFailed",
			fmt.Sprintf("VirtualMachine %s is another one now, or was told something else since.", vm.GetMetadata().GetName()))
	}
	return r.begin(ctx, op, vm)
}

// begin checks whether the operation may be done, and tells the VM.
func (r *Reconciler) begin(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	kind, phase := op.GetSpec().GetType(), vm.GetStatus().GetPhase()
	forced := op.GetSpec().GetForce() && phase == vmv1.VirtualMachinePhase_Stopping && !migrates(kind)
	if !forced && !slices.Contains(ruleOf(kind).phases, phase) {
		return r.fail(op, "NotApplicableForVirtualMachinePhase",
			fmt.Sprintf("%s does not apply to a VM in phase %s.", kind, phaseName(phase)))
	}
	other, err := r.older(op)
	if err != nil {
		return reconcile.Result{}, err
	}
	if other != nil {
		reason := "OtherOperationsAreInProgress"
		if migrates(kind) && migrates(other.GetSpec().GetType()) {
			reason = "OtherMigrationInProgress"
		}
		return r.fail(op, reason, fmt.Sprintf("Operation %s is not finished yet.", other.GetMetadata().GetName()))
	}
	if migrates(kind) {
		if reason, message := migratable(op, vm); reason != "" {
			return r.fail(op, reason, message)
		}
	}
	if err := r.Power.Change(ctx, vm.GetMetadata().GetUid(), func(record *power.Record) { r.tell(record, op, vm) }); err != nil {
		return reconcile.Result{}, err
	}
	r.Machines.Wake(resource.KeyOf(vm))
	return r.progress(op), nil
}

// phaseName names a phase to people; one that nobody looked at yet has none.
func phaseName(phase vmv1.VirtualMachinePhase_Value) string {
	if phase == 0 {
		return vmv1.VirtualMachinePhase_Pending.String()
	}
	return phase.String()
}

// tell writes the operation's wish, and its mark, in one step.
func (r *Reconciler) tell(record *power.Record, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) {
	uid, on := op.GetMetadata().GetUid(), op.GetSpec().GetType() != vmv1.OperationType_Stop
	if record.Operation == uid {
		return
	}
	record.Operation = uid
	if migrates(op.GetSpec().GetType()) {
		record.Migration = r.wish(op, vm, record)
		return
	}
	record.NotBefore = nil
	record.On, record.Force = &on, op.GetSpec().GetForce()
	if op.GetSpec().GetType() == vmv1.OperationType_Restart {
		record.Restart = uid
	}
}

// done reports whether the VM is as the operation wants it.
func done(op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine, record *power.Record) bool {
	phase := vm.GetStatus().GetPhase()
	switch op.GetSpec().GetType() {
	case vmv1.OperationType_Stop:
		return phase == vmv1.VirtualMachinePhase_Stopped
	case vmv1.OperationType_Restart:
		return record.Restart == "" && record.Node != "" && phase == vmv1.VirtualMachinePhase_Running
	default:
		return phase == vmv1.VirtualMachinePhase_Running
	}
}

// older finds an unfinished operation on the same VM that came first.
func (r *Reconciler) older(op *vmv1.VirtualMachineOperation) (*vmv1.VirtualMachineOperation, error) {
	all, err := r.Others(op.GetMetadata().GetNamespace())
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		same := other.GetSpec().GetVirtualMachineName() == op.GetSpec().GetVirtualMachineName()
		if same && !Finished(other) && before(other.GetMetadata(), op.GetMetadata()) {
			return other, nil
		}
	}
	return nil, nil //nolint:nilnil // There is none.
}

func before(a, b *metav1.ObjectMeta) bool {
	at, bt := a.GetCreationTimestamp().AsTime(), b.GetCreationTimestamp().AsTime()
	return at.Before(bt) || at.Equal(bt) && a.GetName() < b.GetName()
}

// Finished reports whether an operation is over: it is never done twice.
func Finished(op *vmv1.VirtualMachineOperation) bool {
	phase := op.GetStatus().GetPhase()
	return phase == vmv1.OperationPhase_Completed || phase == vmv1.OperationPhase_Failed
}

func (r *Reconciler) fail(op *vmv1.VirtualMachineOperation, reason, message string) (reconcile.Result, error) {
	return r.result(op, vmv1.OperationPhase_Failed, reason, message), nil
}

func (r *Reconciler) progress(op *vmv1.VirtualMachineOperation) reconcile.Result {
	return r.result(op, vmv1.OperationPhase_InProgress, ruleOf(op.GetSpec().GetType()).progress, "")
}

func (r *Reconciler) complete(op *vmv1.VirtualMachineOperation) reconcile.Result {
	return r.result(op, vmv1.OperationPhase_Completed, "OperationCompleted", "")
}

func (r *Reconciler) result(op *vmv1.VirtualMachineOperation, phase vmv1.OperationPhase_Value, reason, message string) reconcile.Result {
	generation := op.GetMetadata().GetGeneration()
	list := condition.List{Old: op.GetStatus().GetConditions(), Generation: generation, Now: r.Now()}
	if phase == vmv1.OperationPhase_Completed {
		list.True("Completed", reason, message)
	} else {
		list.False("Completed", reason, message)
	}
	if phase != vmv1.OperationPhase_Failed {
		list.True("SignalSent", "SignalSentSuccess", "")
	}
	return reconcile.Result{Status: &vmv1.VirtualMachineOperationStatus{
		Phase: phase, Conditions: list.Conditions(), ObservedGeneration: generation,
	}}
}
