package peer

import (
	"context"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// AddressesOf are the addresses of a namespace.
func (o *Objects) AddressesOf(namespace string) []*networkv1.VirtualMachineIPAddress {
	return o.Addresses.List(namespace, nil)
}

// MACsOf are the MAC addresses of a namespace.
func (o *Objects) MACsOf(namespace string) []*networkv1.VirtualMachineMACAddress {
	return o.MACs.List(namespace, nil)
}

// writer writes the objects of one kind.
type writer interface {
	create(ctx context.Context, object resource.Object) error
	get(ctx context.Context, key resource.Key) (resource.Object, error)
	remove(ctx context.Context, key resource.Key, options resource.DeleteOptions) error
}

type writerOf[T resource.Object] struct{ client *resource.Client[T] }

func (w writerOf[T]) create(ctx context.Context, object resource.Object) error {
	typed, ok := object.(T)
	if !ok {
		return unknown(object.GetKind())
	}
	_, err := w.client.Create(ctx, typed, resource.WriteOptions{})
	return err
}

func (w writerOf[T]) get(ctx context.Context, key resource.Key) (resource.Object, error) {
	return w.client.Get(ctx, key)
}

func (w writerOf[T]) remove(ctx context.Context, key resource.Key, options resource.DeleteOptions) error {
	_, err := w.client.Delete(ctx, key, options)
	return err
}

func (o *Objects) writer(kind string) (writer, error) {
	switch kind {
	case o.Disks.Client().Kind().Name:
		return writerOf[*diskv1.VirtualDisk]{o.Disks.Client()}, nil
	case o.Machines.Client().Kind().Name:
		return writerOf[*vmv1.VirtualMachine]{o.Machines.Client()}, nil
	case o.Addresses.Client().Kind().Name:
		return writerOf[*networkv1.VirtualMachineIPAddress]{o.Addresses.Client()}, nil
	case o.MACs.Client().Kind().Name:
		return writerOf[*networkv1.VirtualMachineMACAddress]{o.MACs.Client()}, nil
	case o.attachments.Client().Kind().Name:
		return writerOf[*vmv1.VirtualMachineBlockDeviceAttachment]{o.attachments.Client()}, nil
	}
	return nil, unknown(kind)
}

func unknown(kind string) error {
	return fault.New(fault.Invalid, "NotSupported", "no service has objects of kind %s", kind)
}

// Create makes an object of another service; class Exists if there is one of its
// name.
func (o *Objects) Create(ctx context.Context, object resource.Object) error {
	w, err := o.writer(object.GetKind())
	if err != nil {
		return err
	}
	return w.create(ctx, object)
}

// Find reads an object of another service; class NotFound if there is none.
func (o *Objects) Find(ctx context.Context, kind string, key resource.Key) (resource.Object, error) {
	w, err := o.writer(kind)
	if err != nil {
		return nil, err
	}
	return w.get(ctx, key)
}

// Delete asks for an object to go, that one and no other of its name. Idempotent.
func (o *Objects) Delete(ctx context.Context, object resource.Object) error {
	w, err := o.writer(object.GetKind())
	if err != nil {
		return err
	}
	return w.remove(ctx, resource.KeyOf(object), resource.DeleteOptions{
		AllowMissing: true, Preconditions: resource.Preconditions{UID: object.GetMetadata().GetUid()},
	})
}

// UpdateMachine changes a VM that is there, or, dry, only has it judged.
func (o *Objects) UpdateMachine(ctx context.Context, vm *vmv1.VirtualMachine, dry bool) error {
	_, err := o.Machines.Client().Update(ctx, vm, resource.UpdateOptions{WriteOptions: resource.WriteOptions{ValidateOnly: dry}})
	return err
}

// Revert puts a disk back to what a layer has; class NotReady while a VM runs with
// it. Repeating it drops what was written in between.
func (o *Objects) Revert(ctx context.Context, disk *diskv1.VirtualDisk, layer string) error {
	meta := disk.GetMetadata()
	_, err := o.freezes.RevertDisk(ctx, &diskv1.RevertDiskRequest{
		Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Layer: layer,
	})
	return fault.FromStatus(err)
}

// TurnOff keeps a VM off for a holder, and reports whether it is off. It is
// repeated until that is so. Class NotFound for a VM that is gone.
func (o *Objects) TurnOff(ctx context.Context, vm *vmv1.VirtualMachine, holder *metav1.Holder) (bool, error) {
	meta := vm.GetMetadata()
	answer, err := o.maintenance.BeginMaintenance(ctx, &vmv1.BeginMaintenanceRequest{
		Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Holder: holder,
	})
	return answer.GetOff(), fault.FromStatus(err)
}

// LetRun ends what TurnOff began; the VM goes on from kept memory, if any is named.
// Idempotent.
func (o *Objects) LetRun(ctx context.Context, machine, holder, memory string) error {
	_, err := o.maintenance.EndMaintenance(ctx, &vmv1.EndMaintenanceRequest{Uid: machine, HolderUid: holder, Memory: memory})
	return fault.FromStatus(err)
}
