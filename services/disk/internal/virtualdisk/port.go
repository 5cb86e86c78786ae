package virtualdisk

import (
	"context"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
)

// Volumes keeps the data of disks.
type Volumes interface {
	Lookup(ctx context.Context, id string) (layer.Volume, bool, error)
	// Measure is the size that a volume really has, in bytes, whoever made it as
	// large.
	Measure(ctx context.Context, id string) (int64, error)
	Make(ctx context.Context, id string, base *layer.Base, virtualBytes int64) error
	Grow(ctx context.Context, id string, virtualBytes int64) error
	// BeginMirror makes the file that a volume is copied into for another place,
	// EndMirror ends the copying, and knows how it went. Both idempotent.
	BeginMirror(ctx context.Context, id, place string) error
	EndMirror(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
}

// Images is what disks need of the image service's images.
type Images interface {
	// State tells how far the image is that a disk is made from.
	State(ref *diskv1.DiskObjectRef, namespace string) ImageState
	// Claim keeps the image while a disk is made from it.
	Claim(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) (*imagev1.Blob, error)
	// Release ends a claim. Idempotent.
	Release(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) error
}

// Snapshots is what disks need of the snapshot service's snapshots.
type Snapshots interface {
	// State tells how far the snapshot is that a disk is made from.
	State(key resource.Key) ImageState
	// Claim keeps the snapshot while a disk is made from it.
	Claim(ctx context.Context, name string, holder *metav1.Holder) (*snapshotv1.FrozenDisk, error)
	// Release ends a claim. Idempotent.
	Release(ctx context.Context, name string, holder *metav1.Holder) error
}

// Layers keeps the data of snapshots.
type Layers interface {
	Layer(ctx context.Context, name string) (layer.Layer, bool, error)
	Clone(ctx context.Context, id, layer string, virtualBytes int64) error
}

// ImageState is an image, or a snapshot, as a disk sees it.
type ImageState struct {
	Found, Ready bool
	UID          string
	// Unknown is an image of which nothing can be said: the image service has not
	// answered yet.
	Unknown bool
	// Phase and Progress are told to people who wait.
	Phase, Progress string
	// CDROM is an ISO image; VirtualBytes is the size of the disk in the image. Both
	// are known once it is Ready.
	CDROM        bool
	VirtualBytes int64
	// Layer is where a snapshot's data is.
	Layer string
}

// Imports brings files into DVCR for disks.
type Imports interface {
	// Ensure starts an import unless it is there, and tells how far it is.
	Ensure(ctx context.Context, owner *metav1.Holder, generation int32, source *imagev1.DataSource) (*imagev1.Import, error)
	// Drop stops an import and gives back its file. Idempotent.
	Drop(ctx context.Context, owner *metav1.Holder) error
}

// Origins remembers how disks came to be.
type Origins interface {
	Get(ctx context.Context, uid string) (*origin.Record, error)
	Put(ctx context.Context, uid string, record *origin.Record) error
	Delete(ctx context.Context, uid string) error
}

// Classes says which storage class a disk gets.
type Classes interface {
	Choose(ctx context.Context, name string) (*diskv1.StorageClass, error)
}

// Space is the storage that volumes are on.
type Space interface {
	Room(ctx context.Context) (layer.Room, error)
}
