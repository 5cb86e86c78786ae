package operation_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/migration/migrationtest"
	"orlop.dev/services/vm/internal/operation"
	"orlop.dev/services/vm/internal/power"
)

const evict = vmv1.OperationType_Evict

func moving(t *testing.T) (*world, *migrationtest.Engine) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_AlwaysOn, running)
	engine := &migrationtest.Engine{Runs: func(string) bool { return true }}
	w.r.Migrations = engine
	w.change(running, func(r *power.Record) { r.Node = "node-1" })
	return w, engine
}

// The table is the guide's, "Configuring Migration Policy".
func TestPolicyAndForceDecideWhetherAMigrationMaySlowTheGuestDown(t *testing.T) {
	yes, no := true, false
	client := etcdtest.Start(t)
	for policy, want := range map[vmv1.LiveMigrationPolicy_Value][3]string{ // unset, true, false
		vmv1.LiveMigrationPolicy_AlwaysSafe:   {"safe", "refused", "safe"},
		vmv1.LiveMigrationPolicy_PreferSafe:   {"safe", "forced", "safe"},
		vmv1.LiveMigrationPolicy_AlwaysForced: {"forced", "forced", "refused"},
		vmv1.LiveMigrationPolicy_PreferForced: {"forced", "forced", "safe"},
	} {
		for i, force := range []*bool{nil, &yes, &no} {
			w := newWorld(t, client, vmv1.RunPolicy_AlwaysOn, running)
			w.r.Migrations = new(migrationtest.Engine)
			w.vm.Spec.LiveMigrationPolicy = policy
			op := w.add(evict)
			op.Spec.Force = force
			w.pass(op)
			got := "safe"
			switch m := w.record().Migration; {
			case m == nil:
				w.want(op, failed, "NotApplicableForLiveMigrationPolicy")
				got = "refused"
			case m.Converge:
				got = "forced"
			}
			if got != want[i] {
				t.Errorf("%s, force %v: %s, want %s", policy, force, got, want[i])
			}
		}
	}
}

func TestAMigrationIsToldFromItsVMsRecord(t *testing.T) {
	w, engine := moving(t)
	op := w.add(evict)
	op.Spec.Migrate = &vmv1.OperationMigrate{NodeSelector: map[string]string{"zone": "b"}}
	w.pass(op)
	uid := op.GetMetadata().GetUid()
	if m := w.record().Migration; m.Operation != uid || m.Source != "node-1" || m.NodeSelector["zone"] != "b" {
		t.Fatalf("the VM was told %+v", m)
	}
	w.pass(op)
	w.want(op, inProgress, migration.ReasonScheduling)
	w.change(running, func(r *power.Record) { r.Migration.WaitsFor, r.Migration.Waits = migration.ReasonPending, "Waits." })
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Pending, migration.ReasonPending)
	for stage, reason := range map[migration.Stage]string{
		migration.Prepared: migration.ReasonPreparing, migration.Syncing: migration.ReasonSyncing,
		migration.Suspended: migration.ReasonSuspended, migration.Moved: migration.ReasonResumed,
	} {
		w.change(running, func(r *power.Record) { r.Migration.Target = "node-2" })
		engine.Set(w.vm.GetMetadata().GetUid(), uid, stage)
		w.pass(op)
		w.want(op, inProgress, reason)
	}
	second := w.add(evict)
	w.pass(second)
	w.want(second, failed, "OtherMigrationInProgress")
	third := w.add(restart)
	w.pass(third)
	w.want(third, failed, "OtherOperationsAreInProgress")
	w.change(running, func(r *power.Record) { r.Migration.Ended, r.Migration.Succeeded = &epoch, true })
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Completed, migration.ReasonCompleted)
	if op.GetStatus().GetProgress() != "100%" {
		t.Errorf("progress %s", op.GetStatus().GetProgress())
	}
}

func TestAVMThatCannotBeMovedIsRefused(t *testing.T) {
	w, _ := moving(t)
	w.vm.Status.Conditions = []*metav1.Condition{{Type: "Migratable", Status: metav1.ConditionStatus_False}}
	op := w.add(evict)
	w.pass(op)
	w.want(op, failed, "NotReadyToBeExecuted")
}

func TestADeletedOperationAbortsItsMigrationAndThenGoes(t *testing.T) {
	w, _ := moving(t)
	op := w.add(evict)
	w.pass(op)
	op.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	for range 2 {
		if result, err := w.r.Reconcile(t.Context(), op); err != nil || result.Finalized {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if m := w.record().Migration; m.Failure.Reason != migration.ReasonAborted {
		t.Fatalf("the VM was told %+v", m)
	}
	w.change(running, func(r *power.Record) { r.Migration.Ended = &epoch })
	if result, err := w.r.Reconcile(t.Context(), op); err != nil || !result.Finalized {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestFinishedOperationsGoAfterADayAndBeyondTheLastTen(t *testing.T) {
	w, _ := moving(t)
	var deleted []string
	w.r.Delete = func(_ context.Context, op *vmv1.VirtualMachineOperation) error {
		deleted = append(deleted, op.GetMetadata().GetName())
		return nil
	}
	w.vm.Status.Phase = stopped
	for range 12 {
		w.pass(w.add(evict)) // refused, and so finished
	}
	unfinished := w.add(start)
	for _, op := range w.operations {
		if operation.Finished(op) {
			w.pass(op)
		}
	}
	if want := []string{"op-0", "op-1"}; !slices.Equal(deleted, want) {
		t.Errorf("deleted %v, want %v", deleted, want)
	}
	w.r.Now = func() time.Time { return epoch.Add(25 * time.Hour) }
	w.pass(w.operations[11])
	if operation.Finished(unfinished) || deleted[len(deleted)-1] != "op-11" {
		t.Errorf("a day later: %v", deleted)
	}
}
