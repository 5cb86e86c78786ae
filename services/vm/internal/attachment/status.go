package attachment

import (
	"fmt"
	"strings"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/vm/internal/machine"
)

const (
	reasonNotOnNode = "DeviceNotAvailableOnNode"
	notAttached     = "NotAttached"
)

// status says what was observed (api.md of the platform, B.14).
func (r *Reconciler) status(a *vmv1.VirtualMachineBlockDeviceAttachment, o *observation) *vmv1.VirtualMachineBlockDeviceAttachmentStatus {
	generation := a.GetMetadata().GetGeneration()
	list := condition.List{Old: a.GetStatus().GetConditions(), Generation: generation, Now: r.Now()}
	if lack := o.deviceLack(RefOf(a)); lack != "" {
		list.False("BlockDeviceReady", "BlockDeviceNotReady", lack)
	} else {
		list.True("BlockDeviceReady", "BlockDeviceReady", "")
	}
	if lack := o.machineLack(a.GetSpec().GetVirtualMachineName()); lack != "" {
		list.False("VirtualMachineReady", "VirtualMachineNotReady", lack)
	} else {
		list.True("VirtualMachineReady", "VirtualMachineReady", "")
	}
	// The type's name is the platform's own.
	const capacity = "DiskAttachmentCapacityAvailableType"
	switch {
	case o.vm == nil:
		list.Unknown(capacity, "CapacityUnknown", "")
	case o.others >= machine.MaxDevices:
		list.False(capacity, "CapacityReached", fullMessage(o.vm)+".")
	default:
		list.True(capacity, "CapacityAvailable", "")
	}
	o.attached(&list, a)
	return &vmv1.VirtualMachineBlockDeviceAttachmentStatus{
		Phase: o.phase(a), VirtualMachineName: a.GetSpec().GetVirtualMachineName(),
		Conditions: list.Conditions(), ObservedGeneration: generation,
	}
}

func (o *observation) attached(list *condition.List, a *vmv1.VirtualMachineBlockDeviceAttachment) {
	const name = "Attached"
	switch {
	case a.GetMetadata().GetDeletionTimestamp() != nil:
		if o.failure != nil {
			list.True("Terminating", "DetachPending", "The device is not detached yet: "+o.failure.Message+".")
		}
		list.False(name, notAttached, "The device is being detached.")
	case o.conflict != "":
		list.False(name, "Conflict", o.conflict+".")
	case o.plugged:
		list.True(name, "Attached", "")
	case o.booted:
		list.False(name, notAttached, "The VM was started with the device, which was in its spec: it is attached after a restart.")
	case o.vm != nil && emulated(o.vm):
		list.False(name, notAttached, noHotplug(o.vm)+".")
	case o.failure != nil && o.failure.Reason == reasonNotOnNode:
		list.False(name, reasonNotOnNode, o.failure.Message+".")
	case o.failure != nil:
		list.False(name, notAttached, "The device can't be attached now: "+o.failure.Message+".")
	case o.making:
		list.False(name, notAttached, "The disk is being made for the VM.")
	case o.phase(a) == vmv1.AttachmentPhase_InProgress:
		list.False(name, "AttachmentRequestSent", "")
	default:
		list.False(name, notAttached, "It waits: see the other conditions.")
	}
}

// phase sums up an observation (guide, "Dynamic Block Devices").
func (o *observation) phase(a *vmv1.VirtualMachineBlockDeviceAttachment) vmv1.AttachmentPhase_Value {
	switch {
	case a.GetMetadata().GetDeletionTimestamp() != nil:
		return vmv1.AttachmentPhase_Terminating
	case o.conflict != "":
		return vmv1.AttachmentPhase_Failed
	case o.plugged:
		return vmv1.AttachmentPhase_Attached
	case !o.runs(), o.booted, o.others >= machine.MaxDevices, emulated(o.vm), !o.usable(), o.making,
		o.failure != nil && o.failure.Reason == reasonNotOnNode:
		return vmv1.AttachmentPhase_Pending
	}
	return vmv1.AttachmentPhase_InProgress
}

// deviceLack says what the device lacks; empty where it can be attached.
func (o *observation) deviceLack(ref *vmv1.BlockDeviceRef) string {
	switch {
	case !o.device.Found:
		return describe(ref) + " does not exist."
	case o.device.HeldBy != nil && o.device.HeldBy.GetUid() != o.vm.GetMetadata().GetUid():
		return fmt.Sprintf("%s is in use by %s %s.", describe(ref), o.device.HeldBy.GetKind(), o.device.HeldBy.GetName())
	case o.device.Ready, o.device.AwaitsConsumer:
		return ""
	}
	phase := o.device.Phase
	if phase == "" {
		phase = "not Ready"
	}
	return strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", describe(ref), phase, o.device.Message), ": ")
}

// machineLack says why the VM can't be given devices; empty where it can.
func (o *observation) machineLack(name string) string {
	switch {
	case o.vm == nil:
		return fmt.Sprintf("VirtualMachine %s does not exist.", name)
	case !o.runs():
		phase := o.vm.GetStatus().GetPhase().String()
		if o.vm.GetStatus().GetPhase() == 0 {
			phase = vmv1.VirtualMachinePhase_Pending.String()
		}
		return fmt.Sprintf("VirtualMachine %s is %s: the device is attached when it runs.", name, phase)
	}
	return ""
}
