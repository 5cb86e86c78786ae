package machine

import (
	"fmt"
	"strings"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
)

// conditions are the guide's, in the order in which a start needs them.
func (r *Reconciler) conditions(vm *vmv1.VirtualMachine, o *observation, phase vmv1.VirtualMachinePhase_Value) []*metav1.Condition {
	list := condition.List{
		Old: vm.GetStatus().GetConditions(), Generation: vm.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	dependency(&list, "VirtualMachineClassReady", "VirtualMachineClassReady", o.classProblem)
	dependency(&list, "SizingPolicyMatched", "SizingPolicyMatched", o.sizingProblem)
	dependency(&list, "BlockDevicesReady", "BlockDevicesReady", o.devicesProblem)
	dependency(&list, "ProvisioningReady", "ProvisioningReady", o.provisioningProblem)
	dependency(&list, "VirtualMachineIPAddressReady", "VirtualMachineIPAddressReady", o.addressProblem)
	dependency(&list, "VirtualMachineMACAddressReady", "VirtualMachineMACAddressReady", o.macProblem)
	switch {
	case o.sight.State.Alive():
		list.True("PodStarted", "PodStarted", "")
	case o.startProblem != nil && o.startProblem.reason == reasonNotStarted:
		list.False("PodStarted", reasonNotStarted, o.startProblem.message)
	default:
		list.False("PodStarted", "PodNotFound", "")
	}
	running(&list, o, phase)
	if o.sight.Agent != nil {
		list.True("AgentReady", "AgentReady", "The guest agent is version "+o.sight.Agent.Version+".")
	} else {
		list.False("AgentReady", "AgentNotReady", "The guest agent does not answer; see \"Agent Installation\" in the guide.")
	}
	if agent := o.sight.Agent; agent != nil && len(agent.Lacks) > 0 {
		list.True("AgentVersionNotSupported", "AgentVersionNotSupported", "The guest agent, version "+agent.Version+", does not do "+
			strings.Join(agent.Lacks, ", ")+": install a newer qemu-guest-agent, or let it do that.")
	}
	configuration(&list, o)
	firmware(&list, o)
	migrating(&list, o, r.Migration.CopyDisks)
	relocating(&list, o)
	if by := o.record.Maintenance; by != nil {
		list.True("Maintenance", "RestoreInProgress", "The VM is kept off by "+by.Kind+" "+by.Name+" until it is restored.")
	}
	return list.Conditions()
}

// firmware compares the QEMU that runs the guest with the installed one.
func firmware(list *condition.List, o *observation) {
	const name = "FirmwareUpToDate"
	if outdated(o.sight) {
		list.False(name, "FirmwareOutOfDate", fmt.Sprintf(
			"The guest runs on QEMU %s, and %s is installed: a migration or a restart brings it there.", o.sight.QEMU, o.sight.InstalledQEMU))
		return
	}
	list.True(name, "FirmwareUpToDate", "")
}

func migrating(list *condition.List, o *observation, copies bool) {
	const can, not = "Migratable", "VirtualMachineNotMigratable"
	switch {
	case !o.sight.State.Alive():
		list.False(can, not, "The VM does not run.")
	case len(o.record.Pinned) > 0 && !copies:
		list.False(can, not, strings.Join(o.record.Pinned, ", ")+" can be used on "+o.record.Node+" only: "+
			"its storage class has access mode ReadWriteOnce.")
	case len(o.record.Pinned) > 0:
		list.True(can, "VirtualMachineDisksShouldBeMigrating", "Copied along: "+strings.Join(o.record.Pinned, ", ")+".")
	default:
		list.True(can, "VirtualMachineMigratable", "")
	}
	const moves = "Migrating"
	switch m := o.record.Migration; {
	case m.Active() && m.Target != "":
		list.True(moves, "VirtualMachineMigrating", "The VM moves from "+m.Source+" to "+m.Target+".")
	case m.Active():
		list.False(moves, "VirtualMachineNotMigrating", strings.TrimSuffix("The VM waits to be moved: "+m.Waits, ": "))
	case m != nil && m.Ended != nil && !m.Succeeded:
		list.False(moves, "LastMigrationFinishedWithError", m.Failure.Message)
	default:
		list.False(moves, "VirtualMachineNotMigrating", "")
	}
}

// relocating has a condition of its own for a VM that has to leave its node, only
// while it has to.
func relocating(list *condition.List, o *observation) {
	if o.mustLeave != "" {
		list.True("NeedsEvict", "NeedsEvict", o.mustLeave)
	}
}

func dependency(list *condition.List, name, reason string, p *problem) {
	if p != nil {
		list.False(name, p.reason, p.message)
		return
	}
	list.True(name, reason, "")
}

func running(list *condition.List, o *observation, phase vmv1.VirtualMachinePhase_Value) {
	const name, not = "Running", "VirtualMachineNotRunning"
	switch {
	case phase == vmv1.VirtualMachinePhase_Running, phase == vmv1.VirtualMachinePhase_Migrating:
		list.True(name, "VirtualMachineRunning", strings.TrimSpace(unlimited(o)+" "+booted(o)))
	case o.startProblem != nil:
		list.False(name, o.startProblem.reason, o.startProblem.message)
	case o.sight.State == Unresponsive:
		list.False(name, "InternalVirtualMachineError", "QEMU does not answer. It is looked at again; a forced stop ends it.")
	case o.sight.State == Paused:
		list.False(name, not, standing(o.sight.Stalled))
	case o.again > 0 && phase == vmv1.VirtualMachinePhase_Starting && o.record.NotBefore != nil:
		list.False(name, not, fmt.Sprintf("The guest ended early and is started again in %s.", o.again.Round(time.Second)))
	default:
		list.False(name, not, "")
	}
}

// standing says why a guest stands still, and what to do.
func standing(stalled []Stalled) string {
	var full, failed []string
	for _, one := range stalled {
		_, name, _ := strings.Cut(one.ID, "/")
		if one.NoSpace {
			full = append(full, "VirtualDisk "+name)
		} else {
			failed = append(failed, "VirtualDisk "+name)
		}
	}
	switch {
	case len(full) > 0:
		return "The guest stands still: there is no space left for what it writes to " + strings.Join(full, ", ") +
			". Make some (delete disks, snapshots or images that nobody needs): it goes on by itself."
	case len(failed) > 0:
		return "The guest stands still: a write to " + strings.Join(failed, ", ") + " failed. It is tried again."
	}
	return "The guest stands still for a moment."
}

// unlimited is what a VM that runs has to say of its coreFraction.
func unlimited(o *observation) string {
	if o.sight.Unlimited == "" {
		return ""
	}
	return "coreFraction is not enforced: " + o.sight.Unlimited + "."
}

// booted is what a VM has to say that was to go on from kept memory.
func booted(o *observation) string {
	if memory := o.record.Memory; memory != nil && memory.Problem != "" {
		return "The guest was booted, with its disks as they were: " + memory.Problem + "."
	}
	return ""
}

func configuration(list *condition.List, o *observation) {
	if len(o.changes) == 0 {
		list.True("ConfigurationApplied", "ConfigurationApplied", "")
		list.False("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")
		return
	}
	list.False("ConfigurationApplied", "ConfigurationNotApplied", "Changes wait for a restart.")
	list.True("AwaitingRestartToApplyConfiguration", "RestartAwaitingChangesExist",
		"Restart the VM to apply its changes; status.restartAwaitingChanges lists them.")
}
