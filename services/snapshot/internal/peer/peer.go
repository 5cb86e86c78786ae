// Package peer has copies of what snapshots are taken of: the other services'
// objects.
//
// It must not know what a snapshot is.
package peer

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/manifest"
)

// KindAttachment is the kind of what is attached to a VM while it runs.
const KindAttachment = "VirtualMachineBlockDeviceAttachment"

// Changed is told which object changed: a kind's name and a key. It must not
// block.
type Changed func(kind string, key resource.Key)

// Objects are copies of the other services' objects, with clients that write.
type Objects struct {
	Disks     *resource.Mirror[*diskv1.VirtualDisk]
	Machines  *resource.Mirror[*vmv1.VirtualMachine]
	Addresses *resource.Mirror[*networkv1.VirtualMachineIPAddress]
	MACs      *resource.Mirror[*networkv1.VirtualMachineMACAddress]
	// attachments is nil where no service has such.
	attachments *resource.Mirror[resource.Object]
	// secrets is nil where there is no Kubernetes API.
	secrets secretv1.SecretServiceClient
}

// Connections lead to the other services. Secrets may be nil.
type Connections struct{ Disks, Machines, Networks, Secrets grpc.ClientConnInterface }

// New returns the copies. Nothing is read until Run.
func New(c Connections, changed Changed) (*Objects, error) {
	o := new(Objects)
	var err error
	if o.Disks, err = mirror[*diskv1.VirtualDisk](c.Disks, kind.Must(&diskv1.VirtualDisk{}), changed); err != nil {
		return nil, err
	}
	if o.Machines, err = mirror[*vmv1.VirtualMachine](c.Machines, kind.Must(&vmv1.VirtualMachine{}), changed); err != nil {
		return nil, err
	}
	o.Addresses, err = mirror[*networkv1.VirtualMachineIPAddress](c.Networks, kind.Must(&networkv1.VirtualMachineIPAddress{}), changed)
	if err != nil {
		return nil, err
	}
	o.MACs, err = mirror[*networkv1.VirtualMachineMACAddress](c.Networks, kind.Must(&networkv1.VirtualMachineMACAddress{}), changed)
	if err != nil {
		return nil, err
	}
	if c.Secrets != nil {
		o.secrets = secretv1.NewSecretServiceClient(c.Secrets)
	}
	all := kind.All()
	at := slices.IndexFunc(all, func(k *kind.Kind) bool { return k.Name == KindAttachment && k.Service != "" })
	if at >= 0 {
		o.attachments, err = mirror[resource.Object](c.Machines, all[at], changed)
	}
	return o, err
}

func mirror[T resource.Object](conn grpc.ClientConnInterface, k *kind.Kind, changed Changed) (*resource.Mirror[T], error) {
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
	all := []copied{o.Disks, o.Machines, o.Addresses, o.MACs}
	if o.attachments != nil {
		all = append(all, o.attachments)
	}
	return all
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
func (o *Objects) Attachments(key resource.Key) ([]Attachment, error) {
	if o.attachments == nil {
		return nil, nil
	}
	var found []Attachment
	for _, object := range o.attachments.List(key.Namespace, nil) {
		whole, err := manifest.Encode(object)
		if err != nil {
			return nil, err
		}
		spec, _ := whole["spec"].(map[string]any)
		device, _ := spec["blockDeviceRef"].(map[string]any)
		if spec["virtualMachineName"] == key.Name {
			one := Attachment{Object: object}
			one.DeviceKind, _ = device["kind"].(string)
			one.DeviceName, _ = device["name"].(string)
			found = append(found, one)
		}
	}
	return found, nil
}

// Attachment is a device that is attached to a VM.
type Attachment struct {
	Object                 resource.Object
	DeviceKind, DeviceName string
}

// AttachmentExists reports whether there is an attachment of that name.
func (o *Objects) AttachmentExists(key resource.Key) (resource.Object, bool) {
	if o.attachments == nil {
		return nil, false
	}
	return o.attachments.Get(key)
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
