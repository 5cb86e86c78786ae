// Package peer has copies of what snapshots are taken of: the other services'
// objects.
//
// It must not know what a snapshot is.
package peer

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// Changed is told which object changed: a kind's name and a key. It must not
// block.
type Changed func(kind string, key resource.Key)

// Objects are copies of the other services' objects, with clients that write.
type Objects struct {
	Disks     *resource.Mirror[*diskv1.VirtualDisk]
	Machines  *resource.Mirror[*vmv1.VirtualMachine]
	Addresses *resource.Mirror[*networkv1.VirtualMachineIPAddress]
	MACs      *resource.Mirror[*networkv1.VirtualMachineMACAddress]

	attachments *resource.Mirror[*vmv1.VirtualMachineBlockDeviceAttachment]
	// images and clusterImages are nil where there is no image service.
	images        *resource.Client[*imagev1.VirtualImage]
	clusterImages *resource.Client[*imagev1.ClusterVirtualImage]
	// secrets is nil where there is no Kubernetes API.
	secrets secretv1.SecretServiceClient
	// freezes and maintenance change what is there.
	freezes     diskv1.DiskFreezeServiceClient
	maintenance vmv1.MaintenanceServiceClient
}

// Connections lead to the other services. Images and Secrets may be nil.
type Connections struct{ Disks, Images, Machines, Networks, Secrets grpc.ClientConnInterface }

// New returns the copies. Nothing is read until Run.
func New(c Connections, changed Changed) (*Objects, error) {
	o := &Objects{
		freezes: diskv1.NewDiskFreezeServiceClient(c.Disks), maintenance: vmv1.NewMaintenanceServiceClient(c.Machines),
	}
	var problems [5]error
	o.Disks, problems[0] = mirror[*diskv1.VirtualDisk](c.Disks, changed)
	o.Machines, problems[1] = mirror[*vmv1.VirtualMachine](c.Machines, changed)
	o.Addresses, problems[2] = mirror[*networkv1.VirtualMachineIPAddress](c.Networks, changed)
	o.attachments, problems[3] = mirror[*vmv1.VirtualMachineBlockDeviceAttachment](c.Machines, changed)
	o.MACs, problems[4] = mirror[*networkv1.VirtualMachineMACAddress](c.Networks, changed)
	if c.Secrets != nil {
		o.secrets = secretv1.NewSecretServiceClient(c.Secrets)
	}
	return o, errors.Join(errors.Join(problems[:]...), o.reachImages(c.Images))
}

func (o *Objects) reachImages(images grpc.ClientConnInterface) error {
	if images == nil {
		return nil
	}
	var err error
	if o.images, err = resource.NewClient[*imagev1.VirtualImage](images, kind.Must(&imagev1.VirtualImage{})); err != nil {
		return err
	}
	o.clusterImages, err = resource.NewClient[*imagev1.ClusterVirtualImage](images, kind.Must(&imagev1.ClusterVirtualImage{}))
	return err
}

func mirror[T resource.Object](conn grpc.ClientConnInterface, changed Changed) (*resource.Mirror[T], error) {
	var none T
	k := kind.Must(none)
	client, err := resource.NewClient[T](conn, k)
	if err != nil {
		return nil, err
	}
	return resource.NewMirror(client, resource.MirrorOptions[T]{Handler: func(event resource.Event[T]) {
		if event.Type != resource.Bookmark {
			changed(k.Name, resource.KeyOf(event.Object))
		}
	}}), nil
}

type copied interface {
	Run(ctx context.Context) error
	WaitSynced(ctx context.Context) error
}

func (o *Objects) all() []copied {
	return []copied{o.Disks, o.Machines, o.Addresses, o.MACs, o.attachments}
}

// Run keeps the copies until ctx ends.
func (o *Objects) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range o.all() {
		group.Go(func() error { return c.Run(ctx) })
	}
	return group.Wait()
}

// WaitSynced blocks until all copies are complete, or ctx ends.
func (o *Objects) WaitSynced(ctx context.Context) error {
	for _, c := range o.all() {
		if err := c.WaitSynced(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Disk returns a disk; false if there is none.
func (o *Objects) Disk(key resource.Key) (*diskv1.VirtualDisk, bool) { return o.Disks.Get(key) }

// Machine returns a VM; false if there is none.
func (o *Objects) Machine(key resource.Key) (*vmv1.VirtualMachine, bool) { return o.Machines.Get(key) }

// Address returns an address; false if there is none.
func (o *Objects) Address(key resource.Key) (*networkv1.VirtualMachineIPAddress, bool) {
	return o.Addresses.Get(key)
}

// MAC returns a MAC address; false if there is none.
func (o *Objects) MAC(key resource.Key) (*networkv1.VirtualMachineMACAddress, bool) {
	return o.MACs.Get(key)
}

// Attachments are the attachments of a VM, in the order of their names.
func (o *Objects) Attachments(machine resource.Key) []*vmv1.VirtualMachineBlockDeviceAttachment {
	var found []*vmv1.VirtualMachineBlockDeviceAttachment
	for _, attachment := range o.attachments.List(machine.Namespace, nil) {
		if attachment.GetSpec().GetVirtualMachineName() == machine.Name {
			found = append(found, attachment)
		}
	}
	return found
}

// Attachment returns an attachment; false if there is none.
func (o *Objects) Attachment(key resource.Key) (*vmv1.VirtualMachineBlockDeviceAttachment, bool) {
	return o.attachments.Get(key)
}

// ImageExists reports whether there is an image; without an image service, that
// there is.
func (o *Objects) ImageExists(ctx context.Context, kind vmv1.BlockDeviceKind_Value, key resource.Key) (bool, error) {
	var err error
	switch {
	case o.images == nil:
		return true, nil
	case kind == vmv1.BlockDeviceKind_ClusterVirtualImage:
		_, err = o.clusterImages.Get(ctx, resource.Key{Name: key.Name})
	default:
		_, err = o.images.Get(ctx, key)
	}
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// Secret reads a Secret; class NotFound if there is none.
func (o *Objects) Secret(ctx context.Context, key resource.Key) (*secretv1.Secret, error) {
	if o.secrets == nil {
		return nil, fault.New(fault.NotReady, "NoSecrets", "Secret %s can't be read: there is no Kubernetes API", key.Name)
	}
	secret, err := o.secrets.GetSecret(ctx, &secretv1.GetSecretRequest{Namespace: key.Namespace, Name: key.Name})
	return secret, fault.FromStatus(err)
}

// MakeSecret makes a Secret; class Exists if there is one of that name.
func (o *Objects) MakeSecret(ctx context.Context, key resource.Key, secret *secretv1.Secret) error {
	if o.secrets == nil {
		return fault.New(fault.NotReady, "NoSecrets", "Secret %s can't be made: there is no Kubernetes API", key.Name)
	}
	_, err := o.secrets.CreateSecret(ctx, &secretv1.CreateSecretRequest{Namespace: key.Namespace, Name: key.Name, Secret: secret})
	return fault.FromStatus(err)
}

// DeleteSecret deletes a Secret that MakeSecret made with that mark. Idempotent.
func (o *Objects) DeleteSecret(ctx context.Context, key resource.Key, mark string) error {
	if o.secrets == nil {
		return nil
	}
	_, err := o.secrets.DeleteSecret(ctx, &secretv1.DeleteSecretRequest{Namespace: key.Namespace, Name: key.Name, Mark: mark})
	return fault.FromStatus(err)
}
