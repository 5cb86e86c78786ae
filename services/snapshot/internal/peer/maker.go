package peer

import (
	"context"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
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

// Create makes an object of another service; class Exists if there is one of its
// name.
func (o *Objects) Create(ctx context.Context, object resource.Object) error {
	var err error
	switch object := object.(type) {
	case *diskv1.VirtualDisk:
		_, err = o.Disks.Client().Create(ctx, object, resource.WriteOptions{})
	case *vmv1.VirtualMachine:
		_, err = o.Machines.Client().Create(ctx, object, resource.WriteOptions{})
	case *networkv1.VirtualMachineIPAddress:
		_, err = o.Addresses.Client().Create(ctx, object, resource.WriteOptions{})
	case *networkv1.VirtualMachineMACAddress:
		_, err = o.MACs.Client().Create(ctx, object, resource.WriteOptions{})
	default:
		if o.attachments == nil {
			return unknown(object.GetKind())
		}
		_, err = o.attachments.Client().Create(ctx, object, resource.WriteOptions{})
	}
	return err
}

// Find reads an object of another service; class NotFound if there is none.
func (o *Objects) Find(ctx context.Context, kind string, key resource.Key) (resource.Object, error) {
	switch {
	case kind == o.Disks.Client().Kind().Name:
		return o.Disks.Client().Get(ctx, key)
	case kind == o.Machines.Client().Kind().Name:
		return o.Machines.Client().Get(ctx, key)
	case kind == o.Addresses.Client().Kind().Name:
		return o.Addresses.Client().Get(ctx, key)
	case kind == o.MACs.Client().Kind().Name:
		return o.MACs.Client().Get(ctx, key)
	case o.attachments != nil && kind == KindAttachment:
		return o.attachments.Client().Get(ctx, key)
	}
	return nil, unknown(kind)
}

// Delete asks for an object to go, that one and no other of its name. Idempotent.
func (o *Objects) Delete(ctx context.Context, object resource.Object) error {
	key := resource.KeyOf(object)
	options := resource.DeleteOptions{AllowMissing: true, Preconditions: resource.Preconditions{UID: object.GetMetadata().GetUid()}}
	var err error
	switch object.(type) {
	case *diskv1.VirtualDisk:
		_, err = o.Disks.Client().Delete(ctx, key, options)
	case *vmv1.VirtualMachine:
		_, err = o.Machines.Client().Delete(ctx, key, options)
	case *networkv1.VirtualMachineIPAddress:
		_, err = o.Addresses.Client().Delete(ctx, key, options)
	case *networkv1.VirtualMachineMACAddress:
		_, err = o.MACs.Client().Delete(ctx, key, options)
	default:
		if o.attachments == nil {
			return unknown(object.GetKind())
		}
		_, err = o.attachments.Client().Delete(ctx, key, options)
	}
	return err
}

func unknown(kind string) error {
	return fault.New(fault.Invalid, "NotSupported", "no service has objects of kind %s", kind)
}
