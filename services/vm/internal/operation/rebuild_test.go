package operation_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/power"
)

// snapshots is a snapshot service in memory that does nothing by itself.
type snapshots struct {
	snapshots  map[string]*snapshotv1.VirtualMachineSnapshot
	operations map[string]*snapshotv1.VirtualMachineSnapshotOperation
}

func newSnapshots() *snapshots {
	return &snapshots{
		snapshots: map[string]*snapshotv1.VirtualMachineSnapshot{
			"monday":  {Spec: &snapshotv1.VirtualMachineSnapshotSpec{VirtualMachineName: "web"}},
			"another": {Spec: &snapshotv1.VirtualMachineSnapshotSpec{VirtualMachineName: "db"}},
		},
		operations: map[string]*snapshotv1.VirtualMachineSnapshotOperation{},
	}
}

func (s *snapshots) Snapshot(_ context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshot, error) {
	if found := s.snapshots[key.Name]; found != nil {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "NotFound", "no snapshot %s", key.Name)
}

func (s *snapshots) Operation(_ context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshotOperation, error) {
	if found := s.operations[key.Name]; found != nil {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "NotFound", "no operation %s", key.Name)
}

func (s *snapshots) Make(_ context.Context, object resource.Object) error {
	switch object := object.(type) {
	case *snapshotv1.VirtualMachineSnapshot:
		s.snapshots[object.GetMetadata().GetName()] = object
	case *snapshotv1.VirtualMachineSnapshotOperation:
		s.operations[object.GetMetadata().GetName()] = object
	}
	return nil
}

func (s *snapshots) Delete(_ context.Context, object resource.Object) error {
	switch object := object.(type) {
	case *snapshotv1.VirtualMachineSnapshot:
		delete(s.snapshots, object.GetMetadata().GetName())
	case *snapshotv1.VirtualMachineSnapshotOperation:
		delete(s.operations, object.GetMetadata().GetName())
	}
	return nil
}

// only is the one operation on a snapshot that there is; nil where there is none.
func (s *snapshots) only() *snapshotv1.VirtualMachineSnapshotOperation {
	for _, one := range s.operations {
		return one
	}
	return nil
}

// ends says of an operation on a snapshot that it has ended.
func ends(child *snapshotv1.VirtualMachineSnapshotOperation, phase vmv1.OperationPhase_Value, message string) {
	child.Status = &snapshotv1.VirtualMachineSnapshotOperationStatus{
		Phase:      phase,
		Conditions: []*metav1.Condition{{Type: "Completed", Message: &message}},
		Resources:  []*vmv1.OperationResource{{Kind: "VirtualMachine", Name: "web"}},
	}
}

func rebuilding(t *testing.T, phase vmv1.VirtualMachinePhase_Value) (*world, *snapshots) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_AlwaysOff, phase)
	s := newSnapshots()
	w.r.Snapshots = s
	return w, s
}

func (w *world) restore(snapshot string) *vmv1.VirtualMachineOperation {
	op := w.add(vmv1.OperationType_Restore)
	op.Spec.Restore = &vmv1.OperationRestore{Mode: vmv1.OperationMode_BestEffort, VirtualMachineSnapshotName: snapshot}
	return op
}

func TestARestoreIsDoneByTheSnapshotServiceAndFollowed(t *testing.T) {
	w, s := rebuilding(t, vmv1.VirtualMachinePhase_Stopped)
	op := w.restore("monday")
	w.pass(op)
	w.want(op, vmv1.OperationPhase_InProgress, "RestoreInProgress")
	child := s.only()
	if spec := child.GetSpec(); spec.GetType() != snapshotv1.SnapshotOperationType_RestoreVirtualMachine ||
		spec.GetVirtualMachineSnapshotName() != "monday" || spec.GetRestoreVirtualMachine().GetMode() != vmv1.OperationMode_BestEffort {
		t.Fatalf("it asks for %v", spec)
	}
	// In a phase in which none begins.
	w.change(vmv1.VirtualMachinePhase_Stopping, func(r *power.Record) { r.Maintenance = &power.Maintenance{Name: child.GetMetadata().GetName()} })
	w.pass(op)
	w.wantStage(op, "MaintenanceMode", "MaintenanceModeEnabled")
	w.change(vmv1.VirtualMachinePhase_Stopped, func(r *power.Record) { r.Maintenance = nil })
	w.want(op, vmv1.OperationPhase_InProgress, "RestoreInProgress")
	ends(child, vmv1.OperationPhase_Completed, "")
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Completed, "OperationCompleted")
	if len(op.GetStatus().GetResources()) != 1 {
		t.Errorf("the status is %v", op.GetStatus())
	}
	w.wantStage(op, "MaintenanceMode", "MaintenanceModeDisabled")
	w.pass(op)
	if s.only() != nil || s.snapshots["monday"] == nil {
		t.Error("its operation stays, or the user's snapshot is gone")
	}
}

func TestARestoreThatCannotBeIsRefusedByName(t *testing.T) {
	for snapshot, want := range map[string]string{
		"nothing": "VirtualMachineSnapshot nothing does not exist.",
		"another": "VirtualMachineSnapshot another is one of VirtualMachine db.",
	} {
		w, s := rebuilding(t, vmv1.VirtualMachinePhase_Running)
		op := w.restore(snapshot)
		w.pass(op)
		w.want(op, vmv1.OperationPhase_Failed, "NotReadyToBeExecuted")
		if got := op.GetStatus().GetConditions()[0].GetMessage(); got != want || s.only() != nil {
			t.Errorf("it says %q, and asks for %v", got, s.only())
		}
	}
	w, s := rebuilding(t, vmv1.VirtualMachinePhase_Migrating)
	op := w.restore("monday")
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Failed, "NotApplicableForVirtualMachinePhase")
	w.r.Snapshots = nil
	op = w.restore("monday")
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Failed, "NotSupported")
	if s.only() != nil {
		t.Error("something was asked for")
	}
}

func (w *world) wantStage(op *vmv1.VirtualMachineOperation, name, reason string) {
	w.t.Helper()
	if got := condition.Find(op.GetStatus().GetConditions(), name); got.GetReason() != reason {
		w.t.Errorf("%s is %v, want %s", name, got, reason)
	}
}

func (w *world) clone() *vmv1.VirtualMachineOperation {
	op := w.add(vmv1.OperationType_Clone)
	op.Spec.Clone = &vmv1.OperationClone{
		Mode: vmv1.OperationMode_Strict, Customization: &vmv1.CloneCustomization{NamePrefix: "copy-"},
	}
	return op
}

func TestACloneIsMadeFromASnapshotThatGoesAfterIt(t *testing.T) {
	w, s := rebuilding(t, vmv1.VirtualMachinePhase_Stopped)
	op := w.clone()
	w.pass(op)
	w.want(op, vmv1.OperationPhase_InProgress, "CloneInProgress")
	name := "vmop-clone-" + op.GetMetadata().GetUid()
	taken := s.snapshots[name]
	if taken.GetSpec().GetVirtualMachineName() != "web" || taken.GetSpec().GetKeepIpAddress() != snapshotv1.KeepIPAddress_Never || s.only() != nil {
		t.Fatalf("the snapshot is %v, the operation on it %v", taken, s.only())
	}
	w.wantStage(op, "SnapshotReady", "SnapshotInProgress")
	taken.Status = &snapshotv1.VirtualMachineSnapshotStatus{Phase: snapshotv1.SnapshotPhase_Ready}
	w.pass(op)
	w.wantStage(op, "SnapshotReady", "SnapshotReady")
	child := s.only()
	if child.GetSpec().GetVirtualMachineSnapshotName() != name || child.GetSpec().GetCreateVirtualMachine().GetCustomization().GetNamePrefix() != "copy-" {
		t.Fatalf("it asks for %v", child.GetSpec())
	}
	ends(child, vmv1.OperationPhase_Failed, "VirtualMachine copy-web exists.")
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Failed, "OperationFailed")
	if got := op.GetStatus().GetConditions()[0].GetMessage(); !strings.Contains(got, "copy-web") {
		t.Errorf("it says %q", got)
	}
	w.pass(op)
	w.pass(op)
	w.pass(op)
	if s.only() != nil || s.snapshots[name] != nil {
		t.Error("what it made for itself stays")
	}
	w.want(op, vmv1.OperationPhase_Failed, "OperationFailed")
	w.wantStage(op, "SnapshotReady", "SnapshotCleanedUp")
}

func TestACloneWhoseDisksCannotBeBroughtToRestIsRefused(t *testing.T) {
	w, s := rebuilding(t, vmv1.VirtualMachinePhase_Running)
	op := w.clone()
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Failed, "NotReadyToBeExecuted")

	w.vm.Status.Conditions = []*metav1.Condition{{Type: "AgentReady", Status: metav1.ConditionStatus_True}}
	op = w.clone()
	w.pass(op)
	s.snapshots["vmop-clone-"+op.GetMetadata().GetUid()].Status = &snapshotv1.VirtualMachineSnapshotStatus{
		Phase:      snapshotv1.SnapshotPhase_Failed,
		Conditions: []*metav1.Condition{{Type: "VirtualMachineSnapshotReady", Message: proto.String("Changes wait for a restart.")}},
	}
	w.pass(op)
	w.want(op, vmv1.OperationPhase_Failed, "OperationFailed")
	if got := op.GetStatus().GetConditions()[0].GetMessage(); !strings.Contains(got, "Changes wait for a restart.") {
		t.Errorf("it says %q", got)
	}
}

func TestADeletedCloneTakesWhatItMadeForItselfWithIt(t *testing.T) {
	w, s := rebuilding(t, vmv1.VirtualMachinePhase_Stopped)
	op := w.clone()
	w.pass(op)
	for _, taken := range s.snapshots {
		taken.Status = &snapshotv1.VirtualMachineSnapshotStatus{Phase: snapshotv1.SnapshotPhase_Ready}
	}
	w.pass(op)
	op.Metadata.DeletionTimestamp = op.GetMetadata().GetCreationTimestamp()
	for range 2 {
		if result, err := w.r.Reconcile(t.Context(), op); err != nil || result.Finalized || result.After == 0 {
			t.Fatalf("it goes too early: %+v, %v", result, err)
		}
	}
	if result, err := w.r.Reconcile(t.Context(), op); err != nil || !result.Finalized {
		t.Errorf("it stays: %+v, %v", result, err)
	}
	if s.only() != nil || len(s.snapshots) != 2 {
		t.Errorf("there are %v, %v", s.operations, s.snapshots)
	}
}
