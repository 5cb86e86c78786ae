package machine

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/api/resource"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// keptTransitions bounds status.stats.phasesTransitions.
const keptTransitions = 10

// status says what was observed. Of the old status it takes only times: since
// when conditions hold, and when phases changed.
func (r *Reconciler) status(vm *vmv1.VirtualMachine, o *observation) *vmv1.VirtualMachineStatus {
	phase, address, mac := phase(vm, o), o.address, o.mac
	if o.plugged != nil {
		address = o.plugged
	}
	if o.card != nil {
		mac = o.card
	}
	status := &vmv1.VirtualMachineStatus{
		Phase:                       phase,
		IpAddress:                   address.GetStatus().GetAddress(),
		VirtualMachineIpAddressName: address.GetMetadata().GetName(),
		Networks:                    networks(address, mac),
		BlockDeviceRefs:             r.deviceStatuses(vm, o),
		Resources:                   r.resources(vm.GetSpec()),
		Stats:                       r.stats(vm, o, phase),
		VirtualMachinePods:          pods(vm, o),
		MigrationState:              migrationState(vm, o),
		Conditions:                  r.conditions(vm, o, phase),
		ObservedGeneration:          vm.GetMetadata().GetGeneration(),
	}
	if o.sight.State.Alive() {
		status.NodeName = o.record.Node
		status.Versions = &vmv1.VirtualMachineVersions{Qemu: o.sight.QEMU}
	}
	if o.sight.Agent != nil {
		// What can't be shown is not worth failing for: the guest wrote it.
		status.GuestOsInfo, _ = structpb.NewStruct(o.sight.Agent.OS)
	}
	for _, c := range o.changes {
		status.RestartAwaitingChanges = append(status.RestartAwaitingChanges, c.message())
	}
	return status
}

// networks are the VM's one interface.
func networks(address *networkv1.VirtualMachineIPAddress, mac *networkv1.VirtualMachineMACAddress) []*vmv1.NetworkStatus {
	return []*vmv1.NetworkStatus{{
		Id: 1, Type: vmv1.NetworkType_Main.String(),
		MacAddress: mac.GetStatus().GetAddress(), VirtualMachineMacAddressName: mac.GetMetadata().GetName(),
		IpAddress: address.GetStatus().GetAddress(),
	}}
}

// phase sums up an observation (guide, "Virtual Machine Life Cycle").
func phase(vm *vmv1.VirtualMachine, o *observation) vmv1.VirtualMachinePhase_Value {
	switch {
	case deleted(vm):
		return vmv1.VirtualMachinePhase_Terminating
	case o.sight.State.Alive() && stopping(vm, o.record):
		return vmv1.VirtualMachinePhase_Stopping
	case o.sight.State == Unresponsive:
		return vmv1.VirtualMachinePhase_Degraded
	case o.record.Migration.Active() && o.record.Migration.Target != "" && o.sight.State.Alive():
		return vmv1.VirtualMachinePhase_Migrating
	case o.sight.State == Paused:
		return vmv1.VirtualMachinePhase_Pause
	case o.sight.State == Running:
		return vmv1.VirtualMachinePhase_Running
	case !wantsOn(vm.GetSpec().GetRunPolicy(), o.record):
		return vmv1.VirtualMachinePhase_Stopped
	case !o.dependenciesReady(), o.startProblem != nil:
		return vmv1.VirtualMachinePhase_Pending
	}
	return vmv1.VirtualMachinePhase_Starting
}

// migrationState is the present migration's, or the last one's.
func migrationState(vm *vmv1.VirtualMachine, o *observation) *vmv1.VirtualMachineMigrationState {
	m := o.record.Migration
	if m == nil || m.Target == "" {
		return nil
	}
	state := &vmv1.VirtualMachineMigrationState{
		StartTimestamp: timestamppb.New(m.Began.Truncate(time.Second)),
		Source:         &vmv1.MigrationSide{Node: m.Source, Pod: podName(vm, o.record, m.Source)},
		Target:         &vmv1.MigrationSide{Node: m.Target, Pod: podName(vm, o.record, m.Target)},
	}
	if m.Ended != nil {
		state.EndTimestamp = timestamppb.New(m.Ended.Truncate(time.Second))
		state.Result = vmv1.MigrationResult_Failed
		if m.Succeeded {
			state.Result = vmv1.MigrationResult_Succeeded
		}
	}
	return state
}

// resources are those of the spec, also while an instance runs with others
// (guide, "Change virtual machine configuration").
func (r *Reconciler) resources(spec *vmv1.VirtualMachineSpec) *vmv1.VirtualMachineResources {
	fraction := spec.GetCpu().GetCoreFraction()
	if fraction == "" {
		fraction = "100%"
	}
	return &vmv1.VirtualMachineResources{
		Cpu: &vmv1.CPUResources{
			Cores: spec.GetCpu().GetCores(), CoreFraction: fraction,
			RequestedCores:  resource.NewMilliQuantity(milliCPUOf(spec), resource.DecimalSI).String(),
			RuntimeOverhead: "0", Topology: topology(spec.GetCpu().GetCores()),
		},
		Memory: &vmv1.MemoryResources{
			Size:            spec.GetMemory().GetSize(),
			RuntimeOverhead: resource.NewQuantity(r.Overhead(spec), resource.BinarySI).String(),
		},
	}
}

func (r *Reconciler) stats(vm *vmv1.VirtualMachine, o *observation, phase vmv1.VirtualMachinePhase_Value) *vmv1.VirtualMachineStats {
	old := vm.GetStatus().GetStats()
	stats := &vmv1.VirtualMachineStats{LaunchTimeDuration: new(vmv1.LaunchTimeDuration)}
	if old != nil {
		stats = proto.CloneOf(old)
		if stats.LaunchTimeDuration == nil {
			stats.LaunchTimeDuration = new(vmv1.LaunchTimeDuration)
		}
	}
	if n := len(stats.PhasesTransitions); n == 0 || stats.PhasesTransitions[n-1].GetPhase() != phase {
		stats.PhasesTransitions = append(stats.PhasesTransitions, &vmv1.PhaseTransition{
			Phase: phase, Timestamp: timestamppb.New(r.Now().Truncate(time.Second)),
		})
	}
	stats.PhasesTransitions = stats.PhasesTransitions[max(0, len(stats.PhasesTransitions)-keptTransitions):]
	if o.record.Started != nil && o.sight.State.Alive() {
		stats.LastStartTime = timestamppb.New(o.record.Started.Truncate(time.Second))
		stats.LaunchTimeDuration.WaitingForDependencies = seconds(o.record.Waited)
		stats.LaunchTimeDuration.VirtualMachineStarting = ""
		if o.record.Ran != nil {
			stats.LaunchTimeDuration.VirtualMachineStarting = max(o.record.Ran.Sub(*o.record.Started), 0).Truncate(time.Second).String()
		}
		stats.LaunchTimeDuration.GuestOsAgentStarting = seconds(o.record.AgentAfter)
	}
	return stats
}

func seconds(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return d.Truncate(time.Second).String()
}
