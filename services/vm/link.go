package vm

import (
	"context"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/attachment"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/operation"
	"orlop.dev/services/vm/internal/peer"
)

// followPause keeps a watch that fails at once from turning hot.
const followPause = 500 * time.Millisecond

// Class implements machine.Classes.
func (s *Service) Class(name string) (*vmv1.VirtualMachineClass, bool) {
	found, err := s.classes.Get(resource.Key{Name: name})
	return found, err == nil
}

func (s *Service) allClasses() ([]*vmv1.VirtualMachineClass, error) { return s.classes.All("", nil) }

// fillIn gives a VM that names no class, or no part of its cores' time, what its
// class has for such.
func (s *Service) fillIn(_ context.Context, old, vm *vmv1.VirtualMachine) error {
	if vm.GetSpec() == nil {
		return nil
	}
	if err := s.defaultClass(old, vm); err != nil {
		return err
	}
	if cpu := vm.GetSpec().GetCpu(); cpu != nil && cpu.GetCoreFraction() == "" {
		found, _ := s.Class(vm.GetSpec().GetVirtualMachineClassName()) // it may come later
		cpu.CoreFraction = class.DefaultFraction(found, cpu.GetCores())
	}
	return nil
}

// defaultClass gives a VM that names no class the one that it has, or the default
// one.
func (s *Service) defaultClass(old, vm *vmv1.VirtualMachine) error {
	if vm.GetSpec().GetVirtualMachineClassName() != "" {
		return nil
	}
	if had := old.GetSpec().GetVirtualMachineClassName(); had != "" {
		vm.Spec.VirtualMachineClassName = had
		return nil
	}
	all, err := s.allClasses()
	if err != nil {
		return err
	}
	vm.Spec.VirtualMachineClassName, err = class.Default(all)
	return err
}

// Machine implements operation.Machines.
func (s *Service) Machine(key resource.Key) (*vmv1.VirtualMachine, bool) {
	found, err := s.machines.Get(key)
	return found, err == nil
}

// Wake implements operation.Machines.
func (s *Service) Wake(key resource.Key) { s.machines.loop.Trigger(key) }

func (s *Service) allOperations(namespace string) ([]*vmv1.VirtualMachineOperation, error) {
	return s.operations.All(namespace, nil)
}

func (s *Service) deleteOperation(ctx context.Context, op *vmv1.VirtualMachineOperation) error {
	_, err := s.operations.Delete(ctx, resource.KeyOf(op), resource.Preconditions{UID: op.GetMetadata().GetUid()})
	return err
}

func (s *Service) classUsers(name string) int {
	count := 0
	s.eachMachine("", func(vm *vmv1.VirtualMachine) {
		if vm.GetSpec().GetVirtualMachineClassName() == name {
			count++
		}
	})
	return count
}

// eachMachine visits the VMs of a namespace, of all where it is empty, which
// nobody may change. Before the copy is complete there are none: the loops will
// see every VM anyway.
func (s *Service) eachMachine(namespace string, visit func(*vmv1.VirtualMachine)) {
	_ = s.machines.Each(namespace, visit)
}

// diskDevice is the ID of a disk's device.
func diskDevice(name string) string {
	return machine.DeviceID(&vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: name})
}

// exists reports whether there is a VM of that UID.
func (s *Service) exists(uid string) bool {
	found := false
	s.eachMachine("", func(vm *vmv1.VirtualMachine) { found = found || vm.GetMetadata().GetUid() == uid })
	return found
}

// instanceChanged wakes the VM whose guest changed.
func (s *Service) instanceChanged(uid string) {
	s.eachMachine("", func(vm *vmv1.VirtualMachine) {
		if vm.GetMetadata().GetUid() == uid {
			s.machines.loop.Trigger(resource.KeyOf(vm))
		}
	})
}

// deviceChanged wakes the VMs and the attachments that name a disk or an image.
func (s *Service) deviceChanged(kind string, key resource.Key) {
	s.eachMachine(key.Namespace, func(vm *vmv1.VirtualMachine) {
		for _, ref := range vm.GetSpec().GetBlockDeviceRefs() {
			if ref.GetKind().String() == kind && ref.GetName() == key.Name {
				s.machines.loop.Trigger(resource.KeyOf(vm))
			}
		}
	})
	s.eachAttachment(key.Namespace, func(a *vmv1.VirtualMachineBlockDeviceAttachment) {
		if ref := attachment.RefOf(a); ref.GetKind().String() == kind && ref.GetName() == key.Name {
			s.attachments.loop.Trigger(resource.KeyOf(a))
			s.machines.loop.Trigger(attachment.MachineOf(a))
		}
	})
}

// Of implements machine.Attachments.
func (s *Service) Of(vm *vmv1.VirtualMachine) []machine.Attachment {
	all, err := s.allAttachments(vm.GetMetadata().GetNamespace())
	if err != nil {
		return nil // before the copy is complete no VM is worked on
	}
	return attachment.Of(vm, all)
}

func (s *Service) allAttachments(namespace string) ([]*vmv1.VirtualMachineBlockDeviceAttachment, error) {
	return s.attachments.All(namespace, nil)
}

func (s *Service) eachAttachment(namespace string, visit func(*vmv1.VirtualMachineBlockDeviceAttachment)) {
	_ = s.attachments.Each(namespace, visit)
}

// attachmentChanged wakes its VM, and the attachments that wait for it: those of
// the same VM or device.
func (s *Service) attachmentChanged(changed *vmv1.VirtualMachineBlockDeviceAttachment) {
	s.machines.loop.Trigger(attachment.MachineOf(changed))
	s.eachAttachment(changed.GetMetadata().GetNamespace(), func(a *vmv1.VirtualMachineBlockDeviceAttachment) {
		if attachment.Related(a, changed) {
			s.attachments.loop.Trigger(resource.KeyOf(a))
		}
	})
}

// addressChanged wakes the VM whose address it is, or might be.
func (s *Service) addressChanged(_ string, key resource.Key) {
	s.eachMachine(key.Namespace, func(vm *vmv1.VirtualMachine) {
		named := vm.GetSpec().GetVirtualMachineIpAddressName()
		if named == key.Name || named == "" && peer.OwnName(vm.GetMetadata()) == key.Name {
			s.machines.loop.Trigger(resource.KeyOf(vm))
		}
	})
}

// macChanged is the same of a MAC.
func (s *Service) macChanged(_ string, key resource.Key) {
	s.eachMachine(key.Namespace, func(vm *vmv1.VirtualMachine) {
		named := machine.MACNameOf(vm.GetSpec())
		if named == key.Name || named == "" && peer.OwnName(vm.GetMetadata()) == key.Name {
			s.machines.loop.Trigger(resource.KeyOf(vm))
		}
	})
}

// secretChanged wakes the VMs that are set up from a Secret.
func (s *Service) secretChanged(key resource.Key) {
	s.eachMachine(key.Namespace, func(vm *vmv1.VirtualMachine) {
		if machine.SecretOf(vm) == key.Name {
			s.machines.loop.Trigger(resource.KeyOf(vm))
		}
	})
}

// podsAllowed wakes the VMs of a namespace that Kubernetes did not allow to start,
// or to move.
func (s *Service) podsAllowed(namespace string) {
	for _, key := range s.rules.Allowed(namespace) {
		s.machines.loop.Trigger(key)
	}
}

// machineChanged wakes the operations and attachments that wait for a VM, and the classes that
// wait for their last one.
func (s *Service) machineChanged(vm *vmv1.VirtualMachine) {
	_ = s.classes.Each("", func(class *vmv1.VirtualMachineClass) {
		if resource.Terminating(class) {
			s.classes.loop.Trigger(resource.KeyOf(class))
		}
	})
	s.eachAttachment(vm.GetMetadata().GetNamespace(), func(a *vmv1.VirtualMachineBlockDeviceAttachment) {
		if attachment.MachineOf(a) == resource.KeyOf(vm) {
			s.attachments.loop.Trigger(resource.KeyOf(a))
		}
	})
	_ = s.operations.Each(vm.GetMetadata().GetNamespace(), func(op *vmv1.VirtualMachineOperation) {
		if op.GetSpec().GetVirtualMachineName() == vm.GetMetadata().GetName() && !operation.Finished(op) {
			s.operations.loop.Trigger(resource.KeyOf(op))
		}
	})
}

// classChanged wakes the VMs of a class.
func (s *Service) classChanged(name string) {
	s.eachMachine("", func(vm *vmv1.VirtualMachine) {
		if vm.GetSpec().GetVirtualMachineClassName() == name {
			s.machines.loop.Trigger(resource.KeyOf(vm))
		}
	})
}

// follow tells of the changes of a collection until ctx ends, and begins again,
// after a pause, where it fell behind.
func follow[T resource.Object](ctx context.Context, c *resource.Collection[T], tell func(resource.Event[T])) error {
	for {
		for event, err := range c.Watch(ctx, resource.WatchOptions{}) {
			if err != nil {
				break
			}
			if event.Type != resource.Bookmark {
				tell(event)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}
