package operation

import (
	"context"
	"fmt"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/power"
)

const (
	// progressEvery is how often a migration that goes on is told of.
	progressEvery = time.Second
	// abortPoll is how often it is looked whether an aborted one has ended.
	abortPoll = 300 * time.Millisecond
)

func migrates(kind vmv1.OperationType_Value) bool {
	return kind == vmv1.OperationType_Evict || kind == vmv1.OperationType_Migrate
}

// converges is whether a migration may slow the guest down (guide, "Configuring
// Migration Policy"; api.md, B.5), and whether the policy allows to say so.
func converges(policy vmv1.LiveMigrationPolicy_Value, force *bool) (converge, allowed bool) {
	asked := force != nil && *force
	switch policy {
	case vmv1.LiveMigrationPolicy_AlwaysSafe:
		return false, !asked
	case vmv1.LiveMigrationPolicy_AlwaysForced:
		return true, force == nil || asked
	case vmv1.LiveMigrationPolicy_PreferForced:
		return force == nil || asked, true
	default:
		return asked, true
	}
}

// migratable says why a VM can't be moved now; empty if it can.
func migratable(op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine) (reason, message string) {
	spec, policy := op.GetSpec(), vm.GetSpec().GetLiveMigrationPolicy()
	if _, allowed := converges(policy, spec.Force); !allowed {
		return "NotApplicableForLiveMigrationPolicy",
			fmt.Sprintf("force: %t does not apply to a VM with live migration policy %s.", spec.GetForce(), policy)
	}
	if c := condition.Find(vm.GetStatus().GetConditions(), "Migratable"); c.GetStatus() == metav1.ConditionStatus_False {
		return "NotReadyToBeExecuted", "The VM can't be moved: " + c.GetMessage()
	}
	return "", ""
}

// wish is a migration as the VM is told of it.
func (r *Reconciler) wish(op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine, record *power.Record) *power.Migration {
	converge, _ := converges(vm.GetSpec().GetLiveMigrationPolicy(), op.GetSpec().Force)
	return &power.Migration{
		Operation: op.GetMetadata().GetUid(), Converge: converge, Source: record.Node,
		NodeSelector: op.GetSpec().GetMigrate().GetNodeSelector(), Began: r.Now(),
	}
}

// ours is the record's migration, if the operation began it.
func ours(op *vmv1.VirtualMachineOperation, record *power.Record) *power.Migration {
	if m := record.Migration; m != nil && m.Operation == op.GetMetadata().GetUid() {
		return m
	}
	return nil
}

// follow tells how far a migration is that was begun.
func (r *Reconciler) follow(ctx context.Context, op *vmv1.VirtualMachineOperation, vm *vmv1.VirtualMachine, m *power.Migration) (reconcile.Result, error) {
	var sight migration.Sight
	if m.Ended == nil && m.Target != "" {
		var err error
		if sight, err = r.Migrations.Progress(ctx, vm.GetMetadata().GetUid(), m.Operation); err != nil {
			return reconcile.Result{}, err
		}
	}
	reason, message, percent := migration.Describe(m, sight)
	phase := vmv1.OperationPhase_InProgress
	switch {
	case m.Ended != nil && m.Succeeded:
		phase = vmv1.OperationPhase_Completed
	case m.Ended != nil:
		phase = vmv1.OperationPhase_Failed
	case reason == migration.ReasonPending, reason == migration.ReasonQuota:
		phase = vmv1.OperationPhase_Pending
	}
	result := r.result(op, phase, reason, message)
	if m.Failure == nil {
		result.Status.(*vmv1.VirtualMachineOperationStatus).Progress = fmt.Sprintf("%d%%", percent)
	}
	if m.Ended == nil {
		result.After = progressEvery
	}
	return result, nil
}

// leave lets a deleted operation go. A migration that it began is aborted first;
// one whose QEMU does not answer is when it does, or ends with the VM.
func (r *Reconciler) leave(ctx context.Context, op *vmv1.VirtualMachineOperation) (reconcile.Result, error) {
	key := resource.Key{Namespace: op.GetMetadata().GetNamespace(), Name: op.GetSpec().GetVirtualMachineName()}
	if clear, err := r.clear(ctx, op); err != nil || !clear {
		return reconcile.Result{After: rebuildPoll}, err
	}
	vm, found := r.Machines.Machine(key)
	if !found || !migrates(op.GetSpec().GetType()) {
		return reconcile.Result{Finalized: true}, nil
	}
	uid := vm.GetMetadata().GetUid()
	record, err := r.Power.Get(ctx, uid)
	if err != nil {
		return reconcile.Result{}, err
	}
	m := ours(op, record)
	if !m.Active() {
		return reconcile.Result{Finalized: true}, nil
	}
	if m.Failure == nil {
		err := r.Power.Change(ctx, uid, func(record *power.Record) {
			if m := ours(op, record); m.Active() && m.Failure == nil {
				m.Failure = &power.Reason{
					Reason:  migration.ReasonAborted,
					Message: "The operation was deleted, and the VM stays on " + m.Source + ".",
				}
			}
		})
		if err != nil {
			return reconcile.Result{}, err
		}
		r.Machines.Wake(key)
	}
	if vm.GetStatus().GetPhase() == vmv1.VirtualMachinePhase_Degraded {
		return reconcile.Result{Finalized: true}, nil
	}
	return reconcile.Result{After: abortPoll}, nil
}
