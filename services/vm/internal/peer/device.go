// Package peer reaches the other services' objects that a VM uses: disks,
// images and addresses. It keeps copies of them, and makes claims.
//
// It must not know when a VM needs what.
package peer

import (
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/migration"
)

// Changed is told which object changed: a kind's name and a key.
type Changed func(kind string, key resource.Key)

// Devices implements machine.Devices.
type Devices struct {
	disks   *resource.Mirror[*diskv1.VirtualDisk]
	images  *resource.Mirror[*imagev1.VirtualImage]
	cluster *resource.Mirror[*imagev1.ClusterVirtualImage]
}

// NewDevices returns copies over connections to the disk and image services.
func NewDevices(disks, images grpc.ClientConnInterface, changed Changed) (*Devices, error) {
	d := new(Devices)
	var err error
	if d.disks, err = newMirror[*diskv1.VirtualDisk](disks, changed); err != nil {
		return nil, err
	}
	if d.images, err = newMirror[*imagev1.VirtualImage](images, changed); err != nil {
		return nil, err
	}
	if d.cluster, err = newMirror[*imagev1.ClusterVirtualImage](images, changed); err != nil {
		return nil, err
	}
	return d, nil
}

func newMirror[T resource.Object](conn grpc.ClientConnInterface, changed Changed) (*resource.Mirror[T], error) {
	var none T
	k := kind.Must(none)
	client, err := resource.NewClient[T](conn, k)
	if err != nil {
		return nil, err
	}
	handler := func(event resource.Event[T]) {
		if event.Type != resource.Bookmark {
			changed(k.Name, resource.KeyOf(event.Object))
		}
	}
	return resource.NewMirror(client, resource.MirrorOptions[T]{Handler: handler}), nil
}

// Run keeps the copies until ctx ends.
func (d *Devices) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.disks.Run(ctx) })
	group.Go(func() error { return d.images.Run(ctx) })
	group.Go(func() error { return d.cluster.Run(ctx) })
	return group.Wait()
}

// WaitSynced blocks until all copies are complete, or ctx ends.
func (d *Devices) WaitSynced(ctx context.Context) error {
	for _, wait := range []func(context.Context) error{d.disks.WaitSynced, d.images.WaitSynced, d.cluster.WaitSynced} {
		if err := wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// State implements machine.Devices.
func (d *Devices) State(ref *vmv1.BlockDeviceRef, namespace string) machine.DeviceState {
	key := keyOf(ref, namespace)
	switch ref.GetKind() {
	case vmv1.BlockDeviceKind_VirtualDisk:
		disk, found := d.disks.Get(key)
		return diskState(disk, found)
	case vmv1.BlockDeviceKind_ClusterVirtualImage:
		image, found := d.cluster.Get(key)
		status := image.GetStatus()
		return imageState(found, status.GetPhase(), status.GetCdrom(), status.GetSize(), status.GetProgress())
	default:
		image, found := d.images.Get(key)
		status := image.GetStatus()
		return imageState(found, status.GetPhase(), status.GetCdrom(), status.GetSize(), status.GetProgress())
	}
}

func diskState(disk *diskv1.VirtualDisk, found bool) machine.DeviceState {
	status := disk.GetStatus()
	state := machine.DeviceState{
		Found: found, Size: status.GetCapacity(), Phase: status.GetPhase().String(),
		Ready: status.GetPhase() == diskv1.DiskPhase_Ready || status.GetPhase() == diskv1.DiskPhase_Resizing,
	}
	if c := condition.Find(status.GetConditions(), "Ready"); c != nil {
		state.Message = c.GetMessage()
	}
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetActive() {
			state.HeldBy = holder
		}
	}
	switch status.GetPhase() {
	case diskv1.DiskPhase_WaitForFirstConsumer:
		state.AwaitsConsumer, state.InMaking = true, true
	case diskv1.DiskPhase_Pending, diskv1.DiskPhase_Provisioning, diskv1.DiskPhase_Failed:
		state.InMaking = true
	case diskv1.DiskPhase_Resizing:
		// The disk service has agreed to it where it says that it goes on.
		c := condition.Find(status.GetConditions(), "Resizing")
		state.Grows = c.GetStatus() == metav1.ConditionStatus_True && c.GetObservedGeneration() == disk.GetMetadata().GetGeneration()
	}
	return state
}

func imageState(found bool, phase imagev1.ImagePhase_Value, cdrom bool, size *imagev1.ImageSize, progress string) machine.DeviceState {
	return machine.DeviceState{
		Found: found, Ready: phase == imagev1.ImagePhase_Ready, CDROM: cdrom,
		Size: size.GetUnpacked(), Phase: phase.String(), Message: progress,
	}
}

// Claim implements machine.Devices.
func (d *Devices) Claim(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) (machine.Device, error) {
	key := keyOf(ref, holder.GetNamespace())
	if ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
		volume := new(diskv1.Volume)
		err := d.disks.Client().Claim(ctx, key, holder, volume)
		return machine.Device{
			ID: machine.DeviceID(ref), Path: volume.GetPath(), Format: volume.GetFormat(),
			Node: volume.GetNode(), GrowTo: volume.GetWantedBytes(),
			Copy: migration.Copy{Device: machine.DeviceID(ref), Path: volume.GetTargetPath(), Mark: volume.GetTargetMark()},
		}, err
	}
	blob := new(imagev1.Blob)
	if err := d.claimImage(ctx, ref, key, holder, blob); err != nil {
		return machine.Device{}, err
	}
	device := machine.Device{ID: machine.DeviceID(ref), Path: blob.GetPath(), Format: blob.GetFormat(), ReadOnly: true, CDROM: blob.GetCdrom()}
	if device.CDROM {
		device.Format = "raw" // an ISO image is what a CD-ROM has, byte for byte
	}
	return device, nil
}

func (d *Devices) claimImage(ctx context.Context, ref *vmv1.BlockDeviceRef, key resource.Key, holder *metav1.Holder, blob proto.Message) error {
	if ref.GetKind() == vmv1.BlockDeviceKind_ClusterVirtualImage {
		return d.cluster.Client().Claim(ctx, key, holder, blob)
	}
	return d.images.Client().Claim(ctx, key, holder, blob)
}

// Release implements machine.Devices.
func (d *Devices) Release(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) error {
	key := keyOf(ref, holder.GetNamespace())
	switch ref.GetKind() {
	case vmv1.BlockDeviceKind_VirtualDisk:
		return d.disks.Client().Release(ctx, key, holder.GetUid())
	case vmv1.BlockDeviceKind_ClusterVirtualImage:
		return d.cluster.Client().Release(ctx, key, holder.GetUid())
	default:
		return d.images.Client().Release(ctx, key, holder.GetUid())
	}
}

// Held implements machine.Devices.
func (d *Devices) Held(holder *metav1.Holder) []machine.HeldDevice {
	uid := holder.GetUid()
	held := heldOf(d.disks.HeldBy(uid), vmv1.BlockDeviceKind_VirtualDisk, uid)
	held = append(held, heldOf(d.images.HeldBy(uid), vmv1.BlockDeviceKind_VirtualImage, uid)...)
	return append(held, heldOf(d.cluster.HeldBy(uid), vmv1.BlockDeviceKind_ClusterVirtualImage, uid)...)
}

func heldOf[T resource.Object](objects []T, kind vmv1.BlockDeviceKind_Value, uid string) []machine.HeldDevice {
	var held []machine.HeldDevice
	for _, object := range objects {
		for _, holder := range object.GetMetadata().GetHolders() {
			if holder.GetUid() == uid {
				ref := &vmv1.BlockDeviceRef{Kind: kind, Name: object.GetMetadata().GetName()}
				held = append(held, machine.HeldDevice{Ref: ref, Active: holder.GetActive()})
			}
		}
	}
	return held
}

func keyOf(ref *vmv1.BlockDeviceRef, namespace string) resource.Key {
	if ref.GetKind() == vmv1.BlockDeviceKind_ClusterVirtualImage {
		namespace = ""
	}
	return resource.Key{Namespace: namespace, Name: ref.GetName()}
}
