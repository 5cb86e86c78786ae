// Package diskservice is the disk service as images see it: disks, and snapshots
// of disks, that they are made from, and volumes that they are kept on.
//
// It owns the holds on what is read. It must not know what an image waits for, nor
// what its status says.
package diskservice

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
)

// Reasons of the condition DatasourceReady.
const (
	reasonNotReady         = "VirtualDiskNotReady"
	reasonAttached         = "VirtualDiskAttachedToVirtualMachine"
	reasonSnapshotNotReady = "VirtualDiskSnapshotNotReady"

	// reasonInUse is the disk service's own.
	reasonInUse = "VirtualDiskAlreadyInUse"
)

const callWait = 20 * time.Second

// Client asks the disk service.
type Client struct {
	disks   *origins[*diskv1.VirtualDisk]
	volumes diskv1.ImageVolumeServiceClient
	// snapshots is nil where there is no snapshot service.
	snapshots *origins[*snapshotv1.VirtualDiskSnapshot]
}

// New returns a client on a connection to the disk service, and one to the
// snapshot service, which may be nil. changed is told of each disk and snapshot
// that changed.
func New(disk, snapshot grpc.ClientConnInterface, changed func(resource.Object)) (*Client, error) {
	c := &Client{volumes: diskv1.NewImageVolumeServiceClient(disk)}
	var err error
	if c.disks, err = newOrigins[*diskv1.VirtualDisk](disk, changed); err != nil {
		return nil, err
	}
	c.disks.exports, c.disks.answer = diskv1.NewDiskExportServiceClient(disk), func() proto.Message { return new(diskv1.Volume) }
	c.disks.notReady, c.disks.attached = reasonNotReady, reasonAttached
	if snapshot == nil {
		return c, nil
	}
	if c.snapshots, err = newOrigins[*snapshotv1.VirtualDiskSnapshot](snapshot, changed); err != nil {
		return nil, err
	}
	c.snapshots.exports, c.snapshots.answer = diskv1.NewSnapshotExportServiceClient(disk), func() proto.Message { return new(snapshotv1.FrozenDisk) }
	c.snapshots.notReady, c.snapshots.attached = reasonSnapshotNotReady, reasonSnapshotNotReady
	return c, nil
}

// Run follows disks and snapshots until ctx ends. exists tells images that there
// are from those that are none any more.
func (c *Client) Run(ctx context.Context, exists func(holder *metav1.Holder) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.disks.run(ctx, exists) })
	if c.snapshots != nil {
		group.Go(func() error { return c.snapshots.run(ctx, exists) })
	}
	return group.Wait()
}

// HasSnapshots reports whether there is a snapshot service.
func (c *Client) HasSnapshots() bool { return c.snapshots != nil }

// Disk gives a disk to be read, and holds it for an image until Release: no VM may
// begin to write to it meanwhile. A fault of class NotReady says what it lacks.
func (c *Client) Disk(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error) {
	return c.disks.take(ctx, image, key)
}

// Snapshot gives a snapshot to be read, and holds it for an image until Release.
func (c *Client) Snapshot(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error) {
	return c.snapshots.take(ctx, image, key)
}

// Release lets go of all disks and snapshots that are held for an image, but for
// those that keep is true of. Idempotent.
func (c *Client) Release(ctx context.Context, imageUID string, keep func(object string, key resource.Key) bool) error {
	unneeded := func(object string) func(resource.Key, *metav1.Holder) bool {
		return func(key resource.Key, holder *metav1.Holder) bool {
			return holder.GetUid() == imageUID && !keep(object, key)
		}
	}
	err := c.disks.release(ctx, unneeded(c.disks.mirror.Client().Kind().Name))
	if c.snapshots == nil {
		return err
	}
	return errors.Join(err, c.snapshots.release(ctx, unneeded(c.snapshots.mirror.Client().Kind().Name)))
}

// EnsureVolume is the disk service's EnsureImageVolume.
func (c *Client) EnsureVolume(ctx context.Context, request *diskv1.EnsureImageVolumeRequest) (*diskv1.ImageVolume, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	volume, err := c.volumes.EnsureImageVolume(ctx, request)
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return volume, nil
}

// DeleteVolume drops an image's volume. Idempotent.
func (c *Client) DeleteVolume(ctx context.Context, imageUID string) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	if _, err := c.volumes.DeleteImageVolume(ctx, &diskv1.DeleteImageVolumeRequest{OwnerUid: imageUID}); err != nil {
		return fault.FromStatus(err)
	}
	return nil
}

// VolumeOrigin is the volume of an image as a file to read.
func (c *Client) VolumeOrigin(imageUID, name string) intake.Origin {
	return intake.Origin{File: &intake.File{SourceUID: imageUID, Source: file{c.readVolume(imageUID), name}}}
}
