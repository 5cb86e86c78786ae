// Package diskservice is the disk service as images see it: disks that they are
// made from, and volumes that they are kept on.
//
// It owns the holds on disks that are read. It must not know what an image waits
// for, nor what its status says.
package diskservice

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/image/internal/intake"
)

// Reasons of the condition DatasourceReady.
const (
	reasonNotReady = "VirtualDiskNotReady"
	reasonAttached = "VirtualDiskAttachedToVirtualMachine"

	// reasonInUse is the disk service's own.
	reasonInUse = "VirtualDiskAlreadyInUse"
)

const (
	callWait   = 20 * time.Second
	sweepEvery = 30 * time.Second
)

// Client asks the disk service.
type Client struct {
	disks   *resource.Mirror[*diskv1.VirtualDisk]
	exports diskv1.DiskExportServiceClient
	volumes diskv1.ImageVolumeServiceClient
}

// New returns a client on a connection. changed is told of each disk that changed.
func New(conn grpc.ClientConnInterface, changed func(*diskv1.VirtualDisk)) (*Client, error) {
	client, err := resource.NewClient[*diskv1.VirtualDisk](conn, kind.Must(&diskv1.VirtualDisk{}))
	if err != nil {
		return nil, err
	}
	return &Client{
		exports: diskv1.NewDiskExportServiceClient(conn), volumes: diskv1.NewImageVolumeServiceClient(conn),
		disks: resource.NewMirror(client, resource.MirrorOptions[*diskv1.VirtualDisk]{
			Handler: func(event resource.Event[*diskv1.VirtualDisk]) {
				if event.Type != resource.Bookmark {
					changed(event.Object)
				}
			},
		}),
	}, nil
}

// Run follows the disks until ctx ends, and lets go of those that are held for an
// image that is none any more: a process that was killed leaves such holds.
func (c *Client) Run(ctx context.Context, exists func(holder *metav1.Holder) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.disks.Run(ctx) })
	group.Go(func() error {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				// What fails is tried in the next sweep.
				_ = c.release(ctx, func(_ resource.Key, holder *metav1.Holder) bool { return !exists(holder) })
			}
		}
	})
	return group.Wait()
}

// Holders are the images that hold a disk.
func Holders(disk *diskv1.VirtualDisk) []*metav1.Holder {
	var images []*metav1.Holder
	for _, holder := range disk.GetMetadata().GetHolders() {
		switch holder.GetKind() {
		case imagev1.ObjectRefKind_VirtualImage.String(), imagev1.ObjectRefKind_ClusterVirtualImage.String():
			images = append(images, holder)
		}
	}
	return images
}

// Disk gives a disk to be read, and holds it for an image until Release: no VM may
// begin to write to it meanwhile. A fault of class NotReady says what it lacks.
func (c *Client) Disk(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	disk, err := c.disks.Client().Get(ctx, key)
	if err == nil {
		err = c.disks.Client().Claim(ctx, key, image, new(diskv1.Volume))
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return intake.Origin{}, fault.New(fault.NotReady, reasonNotReady, "VirtualDisk %s doesn't exist", key)
	case fault.ReasonOf(err) == reasonInUse:
		return intake.Origin{}, fault.New(fault.NotReady, reasonAttached, "%s: stop the VM first", fault.From(err).Message)
	case fault.Is(err, fault.NotReady):
		return intake.Origin{}, fault.New(fault.NotReady, reasonNotReady, "%s", fault.From(err).Message)
	case err != nil:
		return intake.Origin{}, err
	}
	return intake.Origin{File: &intake.File{
		SourceUID: disk.GetMetadata().GetUid(), Source: file{c.readDisk(key), "VirtualDisk " + key.String()},
	}}, nil
}

// Release lets go of all disks that are held for an image but one; all where keep
// is the zero key. Idempotent.
func (c *Client) Release(ctx context.Context, imageUID string, keep resource.Key) error {
	return c.release(ctx, func(key resource.Key, holder *metav1.Holder) bool {
		return holder.GetUid() == imageUID && key != keep
	})
}

func (c *Client) release(ctx context.Context, unneeded func(resource.Key, *metav1.Holder) bool) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	var problems []error
	for _, disk := range c.disks.List("", nil) {
		key := resource.KeyOf(disk)
		for _, holder := range Holders(disk) {
			if unneeded(key, holder) {
				problems = append(problems, c.disks.Client().Release(ctx, key, holder.GetUid()))
			}
		}
	}
	return errors.Join(problems...)
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
