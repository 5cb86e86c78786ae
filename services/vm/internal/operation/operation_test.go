package operation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/operation"
	"orlop.dev/services/vm/internal/power"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is one VM and its operations. It implements operation.Machines.
type world struct {
	t          *testing.T
	r          *operation.Reconciler
	vm         *vmv1.VirtualMachine
	operations []*vmv1.VirtualMachineOperation
	power      *power.Store
	woken      int
}

func newWorld(t *testing.T, client *clientv3.Client, policy vmv1.RunPolicy_Value, phase vmv1.VirtualMachinePhase_Value) *world {
	w := &world{t: t, power: power.NewStore(client, "/"+uuid.NewString())}
	w.vm = &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "web", Uid: uuid.NewString()},
		Spec:     &vmv1.VirtualMachineSpec{RunPolicy: policy}, Status: &vmv1.VirtualMachineStatus{Phase: phase},
	}
	w.r = &operation.Reconciler{
		Machines: w, Power: w.power, Now: func() time.Time { return epoch },
		Others: func(string) ([]*vmv1.VirtualMachineOperation, error) { return w.operations, nil },
	}
	return w
}

func (w *world) Machine(key resource.Key) (*vmv1.VirtualMachine, bool) {
	return w.vm, w.vm != nil && key == resource.Key{Namespace: "default", Name: "web"}
}

func (w *world) Wake(resource.Key) { w.woken++ }

func (w *world) add(kind vmv1.OperationType_Value) *vmv1.VirtualMachineOperation {
	op := &vmv1.VirtualMachineOperation{
		Metadata: &metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("op-%d", len(w.operations)), Uid: uuid.NewString(),
			CreationTimestamp: timestamppb.New(epoch.Add(time.Duration(len(w.operations)) * time.Second)),
		},
		Spec: &vmv1.VirtualMachineOperationSpec{VirtualMachineName: "web", Type: kind},
	}
	w.operations = append(w.operations, op)
	return op
}

func (w *world) pass(op *vmv1.VirtualMachineOperation) {
	w.t.Helper()
	result, err := w.r.Reconcile(w.t.Context(), op)
	if err != nil {
		w.t.Fatal(err)
	}
	if status, has := result.Status.(*vmv1.VirtualMachineOperationStatus); has {
		op.Status = status
	}
}

func (w *world) want(op *vmv1.VirtualMachineOperation, phase vmv1.OperationPhase_Value, reason string) {
	w.t.Helper()
	completed := condition.Find(op.GetStatus().GetConditions(), "Completed")
	if op.GetStatus().GetPhase() != phase || completed.GetReason() != reason {
		w.t.Fatalf("%s: %v, want %s, %s", op.GetSpec().GetType(), op.GetStatus(), phase, reason)
	}
}

func (w *world) record() *power.Record {
	w.t.Helper()
	record, err := w.power.Get(w.t.Context(), w.vm.GetMetadata().GetUid())
	if err != nil {
		w.t.Fatal(err)
	}
	return record
}

// change does what the VM's own reconciler does.
func (w *world) change(phase vmv1.VirtualMachinePhase_Value, how func(*power.Record)) {
	w.t.Helper()
	w.vm.Status.Phase = phase
	if err := w.power.Change(w.t.Context(), w.vm.GetMetadata().GetUid(), how); err != nil {
		w.t.Fatal(err)
	}
}

const (
	start   = vmv1.OperationType_Start
	stop    = vmv1.OperationType_Stop
	restart = vmv1.OperationType_Restart

	pending  = vmv1.VirtualMachinePhase_Pending
	starting = vmv1.VirtualMachinePhase_Starting
	running  = vmv1.VirtualMachinePhase_Running
	stopping = vmv1.VirtualMachinePhase_Stopping
	stopped  = vmv1.VirtualMachinePhase_Stopped

	completed  = vmv1.OperationPhase_Completed
	failed     = vmv1.OperationPhase_Failed
	inProgress = vmv1.OperationPhase_InProgress
)

func TestPhaseAndPolicyDecideWhetherAnOperationBegins(t *testing.T) {
	client := etcdtest.Start(t)
	phases := map[vmv1.OperationType_Value]map[vmv1.VirtualMachinePhase_Value]bool{
		start:   {stopped: true, stopping: true},
		stop:    {pending: true, starting: true, running: true, vmv1.VirtualMachinePhase_Pause: true, vmv1.VirtualMachinePhase_Degraded: true},
		restart: {starting: true, running: true, vmv1.VirtualMachinePhase_Pause: true, vmv1.VirtualMachinePhase_Degraded: true},
	}
	policies := map[vmv1.OperationType_Value]map[vmv1.RunPolicy_Value]bool{
		start:   {vmv1.RunPolicy_Manual: true, vmv1.RunPolicy_AlwaysOnUnlessStoppedManually: true},
		stop:    {vmv1.RunPolicy_Manual: true, vmv1.RunPolicy_AlwaysOnUnlessStoppedManually: true},
		restart: {vmv1.RunPolicy_Manual: true, vmv1.RunPolicy_AlwaysOnUnlessStoppedManually: true, vmv1.RunPolicy_AlwaysOn: true},
	}
	reasons := map[vmv1.OperationType_Value]string{start: "StartInProgress", stop: "StopInProgress", restart: "RestartInProgress"}
	for kind := range phases {
		for number := range vmv1.VirtualMachinePhase_Value_name {
			for policy := vmv1.RunPolicy_Value(1); vmv1.RunPolicy_Value_name[int32(policy)] != ""; policy++ {
				phase := vmv1.VirtualMachinePhase_Value(number)
				w := newWorld(t, client, policy, phase)
				op := w.add(kind)
				w.pass(op)
				switch {
				case !policies[kind][policy]:
					w.want(op, failed, "NotApplicableForVirtualMachineRunPolicy")
				case !phases[kind][phase]:
					w.want(op, failed, "NotApplicableForVirtualMachinePhase")
				default:
					w.want(op, inProgress, reasons[kind])
				}
				if begun := op.GetStatus().GetPhase() == inProgress; begun != (w.woken == 1) || begun != (w.record().Operation != "") {
					t.Errorf("%s in %s, %s: woken %d, record %+v", kind, phase, policy, w.woken, w.record())
				}
			}
		}
	}
}

func TestOperationsOnNothingFail(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_Manual, running)
	op := w.add(stop)
	w.vm = nil
	w.pass(op)
	w.want(op, failed, "VirtualMachineNotFound")
}

func TestOperationsCompleteWhenTheVMIsThere(t *testing.T) {
	client := etcdtest.Start(t)
	on, off := true, false
	for _, test := range []struct {
		kind vmv1.OperationType_Value
		from vmv1.VirtualMachinePhase_Value
		on   *bool
		// The VM's way; only the last step completes the operation.
		steps []vmv1.VirtualMachinePhase_Value
	}{
		{start, stopped, &on, []vmv1.VirtualMachinePhase_Value{stopped, pending, starting, running}},
		{stop, running, &off, []vmv1.VirtualMachinePhase_Value{running, stopping, stopped}},
	} {
		w := newWorld(t, client, vmv1.RunPolicy_Manual, test.from)
		op := w.add(test.kind)
		w.pass(op)
		if got := w.record().On; got == nil || *got != *test.on {
			t.Errorf("%s: on is %v", test.kind, got)
		}
		for i, phase := range test.steps {
			w.change(phase, func(*power.Record) {})
			w.pass(op)
			if done := op.GetStatus().GetPhase() == completed; done != (i == len(test.steps)-1) {
				t.Errorf("%s in %s: %v", test.kind, phase, op.GetStatus())
			}
		}
		w.want(op, completed, "OperationCompleted")
	}
}

func TestRestartCompletesWithTheNewInstanceOnly(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_AlwaysOn, running)
	op := w.add(restart)
	w.pass(op)
	w.pass(op) // it runs, but it is the old one
	w.want(op, inProgress, "RestartInProgress")
	w.change(starting, (*power.Record).InstanceGone)
	w.pass(op)
	w.want(op, inProgress, "RestartInProgress")
	w.change(running, func(r *power.Record) { r.Node = "node-1" })
	w.pass(op)
	w.want(op, completed, "OperationCompleted")
}

func TestForceIsTold(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_Manual, stopping)
	op := w.add(restart)
	force := true
	op.Spec.Force = &force
	w.pass(op)
	w.want(op, inProgress, "RestartInProgress") // which without force is refused
	if !w.record().Force {
		t.Error("the VM isn't told")
	}
}

func TestOneOperationAtATime(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_Manual, running)
	first, second := w.add(restart), w.add(stop)
	w.pass(first)
	w.pass(second)
	w.want(second, failed, "OtherOperationsAreInProgress")
	w.pass(first)
	w.want(first, inProgress, "RestartInProgress")
	w.change(running, func(r *power.Record) { r.Restart, r.Node = "", "node-1" })
	w.pass(first)
	third := w.add(stop)
	w.pass(third)
	w.want(third, inProgress, "StopInProgress")
}

func TestOperationIsNeverDoneTwice(t *testing.T) {
	client := etcdtest.Start(t)
	t.Run("finished", func(t *testing.T) {
		w := newWorld(t, client, vmv1.RunPolicy_Manual, running)
		op := w.add(stop)
		w.pass(op)
		w.change(stopped, func(*power.Record) {})
		w.pass(op)
		w.change(running, func(r *power.Record) { r.Operation = "another" })
		w.pass(op)
		w.want(op, completed, "OperationCompleted")
		if got := w.record().Operation; got != "another" {
			t.Errorf("it was told again: %q", got)
		}
	})
	t.Run("told, and killed before the status was written", func(t *testing.T) {
		w := newWorld(t, client, vmv1.RunPolicy_Manual, running)
		op := w.add(restart)
		w.pass(op)
		op.Status = nil
		w.change(running, func(r *power.Record) { r.Restart, r.Node = "", "node-1" })
		w.pass(op)
		w.want(op, completed, "OperationCompleted")
	})
	t.Run("another VM of that name", func(t *testing.T) {
		w := newWorld(t, client, vmv1.RunPolicy_Manual, running)
		op := w.add(stop)
		w.pass(op)
		w.vm.Metadata.Uid = uuid.NewString()
		w.pass(op)
		w.want(op, failed, "OperationFailed")
		if w.record().On != nil {
			t.Error("the new VM is stopped")
		}
	})
}

func TestPolicyThatForbidsAnOperationEndsIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_Manual, stopped)
	op := w.add(start)
	w.pass(op)
	w.vm.Spec.RunPolicy = vmv1.RunPolicy_AlwaysOff
	w.pass(op)
	w.want(op, failed, "NotApplicableForVirtualMachineRunPolicy")
}

func TestDeletedOperationGoesAtOnce(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t), vmv1.RunPolicy_Manual, running)
	op := w.add(stop)
	op.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	if result, err := w.r.Reconcile(t.Context(), op); err != nil || !result.Finalized {
		t.Errorf("%v, %v", result, err)
	}
}
