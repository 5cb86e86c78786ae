package machine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/power"
)

// wantGone settles a deleted VM, of which nothing may be left.
func (w *world) wantGone() {
	w.t.Helper()
	for !w.settle() {
		if w.after == 0 {
			w.t.Fatal("a deleted VM stays")
		}
		w.wantPhase(vmv1.VirtualMachinePhase_Terminating)
		w.now = w.now.Add(w.after)
	}
	w.wantClaims(false)
	for name, address := range w.addresses.all {
		if holders := address.GetMetadata().GetHolders(); len(holders) > 0 {
			w.t.Errorf("%s is held: %v", name, holders)
		}
	}
	for name, mac := range w.macs.all {
		if holders := mac.GetMetadata().GetHolders(); len(holders) > 0 {
			w.t.Errorf("MAC %s is held: %v", name, holders)
		}
	}
	if sight, _ := w.engine.Look(w.t.Context(), w.uid()); sight.State != machine.Absent {
		w.t.Errorf("its instance is %s", sight.State)
	}
	if records, err := w.power.All(w.t.Context()); err != nil || len(records) > 0 {
		w.t.Errorf("%d records are left, %v", len(records), err)
	}
}

func TestStopAsksTheGuestFirst(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.ask(stopped)
	if _, err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantPhase(vmv1.VirtualMachinePhase_Stopping)
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.wantClaims(false, "VirtualDisk root")
	w.ask(started)
	w.run()
}

func TestDeafGuestIsTurnedOffWhenItsTimeIsOver(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.engine.Deaf = true
	w.run()
	w.change(func(s *vmv1.VirtualMachineSpec) { // not of the instance that runs
		never := int32(0)
		s.TerminationGracePeriodSeconds = &never
	})
	w.ask(stopped)
	w.wire.fail = map[string]error{"Engine.Powerdown": fault.New(fault.Transient, "InternalVirtualMachineError", "hung")}
	for end := w.now.Add(60 * time.Second); w.now.Before(end); w.now = w.now.Add(w.after) {
		w.settle()
		w.wantPhase(vmv1.VirtualMachinePhase_Stopping)
		w.wantCondition("Running", "InternalVirtualMachineError", "hung")
		w.wantClaims(true, "VirtualDisk root")
		if w.after <= 0 || w.after > 3*time.Second {
			t.Fatalf("it is asked again after %s", w.after)
		}
	}
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.wantClaims(false, "VirtualDisk root")
}

func TestForcedStopDoesNotAsk(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.engine.Deaf = true
	w.run()
	w.ask(func(r *power.Record) { stopped(r); r.Force = true })
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.ask(started)
	w.run()
	w.ask(stopped) // force was of the other instance
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopping)
}

func TestVMThatIsWantedAgainWhileItStopsStopsFirst(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.engine.Deaf = true
	w.run()
	w.ask(stopped)
	w.settle()
	w.ask(started)
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopping)
	w.engine.Set(w.uid(), machine.Sight{State: machine.Shutdown})
	w.run()
	if w.engine.Starts() != 2 {
		t.Errorf("%d starts", w.engine.Starts())
	}
}

func TestEndOfAGuestUnderEachRunPolicy(t *testing.T) {
	client := etcdtest.Start(t)
	stays, again := vmv1.VirtualMachinePhase_Stopped, vmv1.VirtualMachinePhase_Running
	for _, test := range []struct {
		policy vmv1.RunPolicy_Value
		ending map[machine.State]vmv1.VirtualMachinePhase_Value
	}{
		{vmv1.RunPolicy_AlwaysOn, map[machine.State]vmv1.VirtualMachinePhase_Value{
			machine.Shutdown: again, machine.Panicked: again, machine.Crashed: again, machine.Absent: again}},
		{vmv1.RunPolicy_AlwaysOnUnlessStoppedManually, map[machine.State]vmv1.VirtualMachinePhase_Value{
			machine.Shutdown: stays, machine.Panicked: again, machine.Crashed: again, machine.Absent: again}},
		{vmv1.RunPolicy_Manual, map[machine.State]vmv1.VirtualMachinePhase_Value{
			machine.Shutdown: stays, machine.Panicked: stays, machine.Crashed: stays, machine.Absent: stays}},
	} {
		for ending, want := range test.ending {
			t.Run(fmt.Sprintf("%s %s", test.policy, ending), func(t *testing.T) {
				w := newWorld(t, client)
				w.vm.Spec.RunPolicy = test.policy
				w.ask(started)
				w.run()
				w.now = w.now.Add(time.Hour)
				w.engine.Set(w.uid(), machine.Sight{State: ending})
				w.settle()
				w.wantPhase(want)
				w.wantClaims(want == again, "VirtualDisk root")
			})
		}
	}
}

func TestGuestThatEndsEarlyIsNotStartedAgainAtOnce(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.now = w.now.Add(time.Second)
	w.engine.Set(w.uid(), machine.Sight{State: machine.Panicked})
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Starting)
	w.wantCondition("Running", "VirtualMachineNotRunning", "The guest ended early and is started again in 5s.")
	w.now = w.now.Add(w.after)
	w.run()
}

func TestRunPolicyAppliesAtOnce(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	policy := func(p vmv1.RunPolicy_Value) {
		w.change(func(s *vmv1.VirtualMachineSpec) { s.RunPolicy = p })
		w.settle()
	}
	w.run()
	policy(vmv1.RunPolicy_Manual) // a VM that runs stays as it is
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	policy(vmv1.RunPolicy_AlwaysOff)
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	policy(vmv1.RunPolicy_Manual) // and so does one that doesn't
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	policy(vmv1.RunPolicy_AlwaysOnUnlessStoppedManually)
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.ask(stopped)
	w.settle()
	policy(vmv1.RunPolicy_AlwaysOff)
	policy(vmv1.RunPolicy_AlwaysOnUnlessStoppedManually) // the stop is forgotten
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	if w.vm.GetStatus().GetRestartAwaitingChanges() != nil {
		t.Error("a policy waits for a restart")
	}
}

func TestRestartMakesANewInstance(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	if _, err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantPhase(vmv1.VirtualMachinePhase_Stopping)
	w.run()
	record, err := w.power.Get(t.Context(), w.uid())
	if err != nil || w.engine.Starts() != 2 || record.Restart != "" {
		t.Errorf("%d starts, restart %q, %v", w.engine.Starts(), record.Restart, err)
	}
}

func TestRestartOfAVMWithoutAnInstanceIsOneStart(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	if w.engine.Starts() != 1 {
		t.Errorf("%d starts", w.engine.Starts())
	}
}

func TestChangesWaitForARestart(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.devices.add("VirtualDisk data")
	w.change(func(s *vmv1.VirtualMachineSpec) {
		s.Cpu.Cores = 2
		s.BlockDeviceRefs = append(s.BlockDeviceRefs, &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "data"})
	})
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.wantCondition("AwaitingRestartToApplyConfiguration", "RestartAwaitingChangesExist", "")
	w.wantCondition("ConfigurationApplied", "ConfigurationNotApplied", "")
	if n := len(w.vm.GetStatus().GetRestartAwaitingChanges()); n != 2 {
		t.Errorf("%d changes", n)
	}
	if n := len(w.vm.GetStatus().GetBlockDeviceRefs()); n != 1 {
		t.Errorf("%d devices are shown, one is attached", n)
	}
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	w.wantCondition("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")
	w.wantClaims(true, "VirtualDisk data", "VirtualDisk root")
	if got := w.engine.Last(); got.Topology.GetCoresPerSocket() != 2 || len(got.Devices) != 2 {
		t.Errorf("the new instance is %+v", got)
	}
}

func TestAutomaticApprovalRestartsByItself(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.vm.Spec.Disruptions = &vmv1.Disruptions{RestartApprovalMode: vmv1.RestartApprovalMode_Automatic}
	w.run()
	w.change(func(s *vmv1.VirtualMachineSpec) { s.Memory.Size = "512Mi" })
	w.run()
	if w.engine.Starts() != 2 || w.engine.Last().MemoryBytes != 512<<20 {
		t.Errorf("%d starts, %d bytes", w.engine.Starts(), w.engine.Last().MemoryBytes)
	}
}

func TestAnotherAddressIsTakenAtTheNextStartAndTheOldOneLetGo(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.addresses.add("mine")
	w.change(func(s *vmv1.VirtualMachineSpec) { s.VirtualMachineIpAddressName = "mine" })
	w.settle()
	if got := w.vm.GetStatus().GetIpAddress(); got != "10.66.10.10" {
		t.Errorf("the address of the running guest is shown as %s", got)
	}
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	if got := w.vm.GetStatus().GetIpAddress(); got != "10.66.10.11" {
		t.Errorf("the address is %s", got)
	}
	if holders := w.addresses.all["web-auto"].GetMetadata().GetHolders(); len(holders) > 0 {
		t.Errorf("the old address is held: %v", holders)
	}
}

func TestUnresponsiveInstanceIsShownAndCanBeEnded(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.engine.Set(w.uid(), machine.Sight{State: machine.Unresponsive})
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Degraded)
	w.wantCondition("Running", "InternalVirtualMachineError", "")
	w.wantClaims(true, "VirtualDisk root")
	w.delete()
	w.wantGone()
}

func TestPausedGuestIsShown(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.engine.Set(w.uid(), machine.Sight{State: machine.Paused})
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pause)
}

func TestDeletionEndsEverythingFromAnyPhase(t *testing.T) {
	client := etcdtest.Start(t)
	for phase, reach := range map[vmv1.VirtualMachinePhase_Value]func(w *world){
		vmv1.VirtualMachinePhase_Unspecified: func(*world) {},
		vmv1.VirtualMachinePhase_Pending:     func(w *world) { delete(w.devices.states, "VirtualDisk root"); w.settle() },
		vmv1.VirtualMachinePhase_Running:     (*world).run,
		vmv1.VirtualMachinePhase_Stopping: func(w *world) {
			w.engine.Deaf = true
			w.run()
			w.ask(stopped)
			w.settle()
		},
		vmv1.VirtualMachinePhase_Stopped: func(w *world) { w.vm.Spec.RunPolicy = vmv1.RunPolicy_AlwaysOff; w.settle() },
	} {
		t.Run(phase.String(), func(t *testing.T) {
			w := newWorld(t, client)
			reach(w)
			w.wantPhase(phase)
			w.delete()
			w.wantGone()
		})
	}
}

func TestDeletionSurvivesDeathBetweenAnyTwoSteps(t *testing.T) {
	client := etcdtest.Start(t)
	for at := 1; ; at++ {
		w := newWorld(t, client)
		w.run()
		w.delete()
		ctx, cut := context.WithCancel(t.Context())
		w.wire.steps, w.wire.cutAt, w.wire.cut = 0, at, cut
		gone := false
		for range 10 {
			if gone, _ = w.pass(ctx); gone || ctx.Err() != nil {
				break
			}
		}
		died := ctx.Err() != nil
		cut()
		w.wire.cutAt = 0
		if gone && !died {
			return
		}
		if gone {
			t.Fatalf("step %d: gone by a process that had died", at)
		}
		w.wantGone()
	}
}

func TestClaimThatIsNotSeenYetIsLetGoOf(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.devices.blind = true
	w.delete()
	for range 5 {
		if gone, _ := w.pass(t.Context()); gone {
			break
		}
	}
	w.wantClaims(false)
}

func TestFailedLetGoKeepsADeletedVM(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.settle()
	w.delete()
	w.wire.fail = map[string]error{"Devices.Release": fault.New(fault.Transient, "Unavailable", "away")}
	for range 5 {
		if gone, _ := w.pass(t.Context()); gone {
			t.Fatal("the VM went and its claim stayed")
		}
	}
	w.wire.fail = nil
	w.wantGone()
}

func TestAgentIsReported(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.wantCondition("AgentReady", "AgentNotReady", "")
	w.engine.Set(w.uid(), machine.Sight{State: machine.Running, Agent: &machine.Agent{
		Version: "7.2", OS: map[string]any{"name": "Debian"}, Since: epoch.Add(20 * time.Second),
	}})
	w.settle()
	w.wantCondition("AgentReady", "AgentReady", "The guest agent is version 7.2.")
	status := w.vm.GetStatus()
	if got := status.GetGuestOsInfo().GetFields()["name"].GetStringValue(); got != "Debian" {
		t.Errorf("the guest's system is %q", got)
	}
	if got := status.GetStats().GetLaunchTimeDuration().GetGuestOsAgentStarting(); got != "20s" {
		t.Errorf("the agent took %q", got)
	}
	if at := status.GetStats().GetLastStartTime(); !at.AsTime().Equal(timestamppb.New(epoch).AsTime()) {
		t.Errorf("started at %v", at)
	}
}

func TestAGuestThatStandsStillSaysForWhat(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	for message, stalled := range map[string][]machine.Stalled{
		"The guest stands still: there is no space left for what it writes to VirtualDisk root. " +
			"Make some (delete disks, snapshots or images that nobody needs): it goes on by itself.": {{ID: "virtualdisk/root", NoSpace: true}},
		"The guest stands still: a write to VirtualDisk root failed. It is tried again.": {{ID: "virtualdisk/root"}},
		"The guest stands still for a moment.":                                           nil,
	} {
		w.engine.Set(w.uid(), machine.Sight{State: machine.Paused, Stalled: stalled})
		w.settle()
		w.wantPhase(vmv1.VirtualMachinePhase_Pause)
		w.wantCondition("Running", "VirtualMachineNotRunning", message)
	}
}

func TestAnAgentThatLacksWhatIsNeededIsTold(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.engine.Set(w.uid(), machine.Sight{State: machine.Running, Agent: &machine.Agent{Version: "2.5", Lacks: []string{"guest-fsfreeze-freeze"}}})
	w.settle()
	w.wantCondition("AgentVersionNotSupported", "AgentVersionNotSupported", "The guest agent, version 2.5, does not do guest-fsfreeze-freeze: "+
		"install a newer qemu-guest-agent, or let it do that.")
	w.engine.Set(w.uid(), machine.Sight{State: machine.Running, Agent: &machine.Agent{Version: "10.0"}})
	w.settle()
	w.wantCondition("AgentVersionNotSupported", "", "")
}
