package attachment

import (
	"context"
	"fmt"
	"slices"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
)

type attachments = []*vmv1.VirtualMachineBlockDeviceAttachment

// Admit refuses an attachment that could never be made. What comes to be wrong
// later shows in its status.
func (r *Reconciler) Admit(_ context.Context, old, a *vmv1.VirtualMachineBlockDeviceAttachment) error {
	if a == nil || old != nil {
		return nil // its spec can't be changed
	}
	all, err := r.All(a.GetMetadata().GetNamespace())
	if err != nil {
		return err
	}
	vm, _ := r.Machines.Machine(MachineOf(a))
	if reason := conflict(a, vm, all); reason != "" {
		return fault.Refuse("spec.blockDeviceRef", "FieldValueDuplicate", "%s", reason)
	}
	switch {
	case vm == nil: // it may come later
	case emulated(vm):
		return fault.Refuse("spec.virtualMachineName", "FieldValueForbidden", "%s", noHotplug(vm))
	case devicesBeside(a, vm, all) >= machine.MaxDevices:
		return fault.Refuse("spec.virtualMachineName", "FieldValueForbidden", "%s", fullMessage(vm))
	}
	return nil
}

// Of implements machine.Attachments over a list of all of the VM's namespace.
func Of(vm *vmv1.VirtualMachine, all attachments) []machine.Attachment {
	var own attachments
	for _, a := range all {
		if leads(a, vm) && conflict(a, vm, all) == "" {
			own = append(own, a)
		}
	}
	slices.SortFunc(own, func(a, b *vmv1.VirtualMachineBlockDeviceAttachment) int {
		if before(a, b) {
			return -1
		}
		return 1
	})
	var found []machine.Attachment
	for _, a := range own {
		found = append(found, machine.Attachment{Name: a.GetMetadata().GetName(), Ref: RefOf(a)})
	}
	return found
}

// conflict says what excludes an attachment: its VM's spec, an older attachment
// of the same device to the same VM, or one of the same disk to any VM.
func conflict(a *vmv1.VirtualMachineBlockDeviceAttachment, vm *vmv1.VirtualMachine, all attachments) string {
	ref := RefOf(a)
	if named(vm, ref) {
		return fmt.Sprintf("%s is in spec.blockDeviceRefs of VirtualMachine %s already", describe(ref), vm.GetMetadata().GetName())
	}
	for _, other := range all {
		if !same(a, other) || other.GetMetadata().GetDeletionTimestamp() != nil || !before(other, a) {
			continue
		}
		to := other.GetSpec().GetVirtualMachineName()
		if to == a.GetSpec().GetVirtualMachineName() || ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
			return fmt.Sprintf("%s is attached to VirtualMachine %s already, by VirtualMachineBlockDeviceAttachment %s",
				describe(ref), to, other.GetMetadata().GetName())
		}
	}
	return ""
}

// shared reports whether somebody else has a right to the device in the same VM.
func shared(a *vmv1.VirtualMachineBlockDeviceAttachment, vm *vmv1.VirtualMachine, all attachments) bool {
	if named(vm, RefOf(a)) {
		return true
	}
	for _, other := range all {
		if same(a, other) && leads(other, vm) {
			return true
		}
	}
	return false
}

func named(vm *vmv1.VirtualMachine, ref *vmv1.BlockDeviceRef) bool {
	for _, own := range vm.GetSpec().GetBlockDeviceRefs() {
		if machine.DeviceID(own) == machine.DeviceID(ref) {
			return true
		}
	}
	return false
}

// same reports whether two different attachments are of one device.
func same(a, b *vmv1.VirtualMachineBlockDeviceAttachment) bool {
	return a.GetMetadata().GetName() != b.GetMetadata().GetName() &&
		machine.DeviceID(RefOf(a)) == machine.DeviceID(RefOf(b))
}

// Related reports whether what happens to one attachment matters to another.
func Related(a, b *vmv1.VirtualMachineBlockDeviceAttachment) bool {
	return same(a, b) || a.GetMetadata().GetName() != b.GetMetadata().GetName() && MachineOf(a) == MachineOf(b)
}

// leads reports whether an attachment is to this VM, and is to stay.
func leads(a *vmv1.VirtualMachineBlockDeviceAttachment, vm *vmv1.VirtualMachine) bool {
	return a.GetSpec().GetVirtualMachineName() == vm.GetMetadata().GetName() && a.GetMetadata().GetDeletionTimestamp() == nil
}

// before orders attachments by age, then by name. One that is not made yet is the
// youngest.
func before(a, b *vmv1.VirtualMachineBlockDeviceAttachment) bool {
	if b.GetMetadata().GetCreationTimestamp() == nil {
		return true
	}
	at, bt := a.GetMetadata().GetCreationTimestamp().AsTime(), b.GetMetadata().GetCreationTimestamp().AsTime()
	return at.Before(bt) || at.Equal(bt) && a.GetMetadata().GetName() < b.GetMetadata().GetName()
}

// devicesBeside counts the devices of a VM's spec, and of its attachments that
// come before this one.
func devicesBeside(a *vmv1.VirtualMachineBlockDeviceAttachment, vm *vmv1.VirtualMachine, all attachments) int {
	count := len(vm.GetSpec().GetBlockDeviceRefs())
	for _, other := range all {
		if other.GetMetadata().GetName() != a.GetMetadata().GetName() && leads(other, vm) && before(other, a) && conflict(other, vm, all) == "" {
			count++
		}
	}
	return count
}

func noHotplug(vm *vmv1.VirtualMachine) string {
	return fmt.Sprintf("VirtualMachine %s has emulated devices, which can't be plugged in: set its spec.enableParavirtualization to true",
		vm.GetMetadata().GetName())
}

func fullMessage(vm *vmv1.VirtualMachine) string {
	return fmt.Sprintf("VirtualMachine %s has %d block devices, and may have no more: detach one first", vm.GetMetadata().GetName(), machine.MaxDevices)
}
