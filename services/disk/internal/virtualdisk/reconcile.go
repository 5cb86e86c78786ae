// Package virtualdisk has the rules of a VirtualDisk: what it waits for, how it
// comes to be, what its status says.
//
// It must not know how data is stored (package layer does), nor what images are
// beyond their being Ready and having a blob.
package virtualdisk

import (
	"context"
	"errors"
	"syscall"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/services/disk/internal/layer"
)

// Volumes keeps the data of disks.
type Volumes interface {
	Lookup(ctx context.Context, id string) (layer.Volume, bool, error)
	Make(ctx context.Context, id string, base *layer.Base, virtualBytes int64) error
	Grow(ctx context.Context, id string, virtualBytes int64) error
	Remove(ctx context.Context, id string) error
}

// Images is what disks need of the image service.
type Images interface {
	// State tells how far the image is that a disk is made from.
	State(ref *diskv1.DiskObjectRef, namespace string) ImageState
	// Claim keeps the image while a disk is made from it.
	Claim(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) (*imagev1.Blob, error)
	// Release ends a claim. Idempotent.
	Release(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) error
}

// ImageState is an image as a disk sees it.
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
	// HeldBy reports whether an object with that UID claims the image.
	HeldBy func(uid string) bool
}

// Reconciler makes disks.
type Reconciler struct {
	Volumes Volumes
	Images  Images
	Classes Classes
	Now     func() time.Time
}

// observation is what one look at a disk found, and all that its status is made
// from.
type observation struct {
	class  string
	volume *layer.Volume
	source ImageState
	// Why the next step can't be done; nil where it could.
	classFault, sourceFault, volumeFault *fault.Fault
	// wantedBytes is the size that the spec and the source ask for.
	wantedBytes int64
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, disk *diskv1.VirtualDisk) (reconcile.Result, error) {
	if disk.GetMetadata().GetDeletionTimestamp() != nil {
		return r.remove(ctx, disk)
	}
	var o observation
	err := r.step(ctx, disk, &o)
	return reconcile.Result{Status: r.status(disk, &o)}, err
}

// step looks, and does what is to be done next.
func (r *Reconciler) step(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	class, refusal := r.Classes.Choose(disk.GetSpec().GetPersistentVolumeClaim().GetStorageClassName())
	if refusal != nil {
		o.classFault = refusal
	} else {
		o.class = class.GetName()
	}
	volume, found, err := r.Volumes.Lookup(ctx, disk.GetMetadata().GetUid())
	if err != nil {
		return err
	}
	switch {
	case found:
		o.volume = &volume
		return r.keep(ctx, disk, o)
	case refusal != nil:
		return refusal
	}
	return r.create(ctx, disk, o)
}

// keep looks after a volume that is there: it grows with its spec.
func (r *Reconciler) keep(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	if err := r.release(ctx, disk); err != nil {
		return err
	}
	wanted, refusal := wantedSize(disk)
	if refusal != nil {
		return refusal
	}
	o.wantedBytes = max(wanted, o.volume.VirtualBytes)
	if o.wantedBytes == o.volume.VirtualBytes || activeHolder(disk) != nil {
		return nil
	}
	if err := r.Volumes.Grow(ctx, disk.GetMetadata().GetUid(), o.wantedBytes); err != nil {
		o.volumeFault = volumeFault(err)
		return o.volumeFault
	}
	o.volume.VirtualBytes = o.wantedBytes
	return nil
}

// create makes the volume, once everything that it needs is there.
func (r *Reconciler) create(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	wanted, refusal := wantedSize(disk)
	if refusal != nil {
		o.volumeFault = refusal
		return refusal
	}
	o.wantedBytes = wanted
	base, err := r.base(ctx, disk, o)
	if err != nil {
		if o.sourceFault == nil {
			o.volumeFault = fault.From(err)
		}
		return err
	}
	if err := r.Volumes.Make(ctx, disk.GetMetadata().GetUid(), base, o.wantedBytes); err != nil {
		o.volumeFault = volumeFault(err)
		return o.volumeFault
	}
	o.volume = &layer.Volume{VirtualBytes: o.wantedBytes}
	if base == nil {
		return nil
	}
	// The claim was made just now and may not be seen yet.
	return r.Images.Release(ctx, disk.GetSpec().GetDataSource().GetObjectRef(), holderOf(disk))
}

// volumeFault tells people what they can do something about; the rest is in the
// log alone.
func volumeFault(err error) *fault.Fault {
	var known *fault.Fault
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(err, fault.Exhausted, reasonProvisioningFailed, "no space is left where disks are kept")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.From(err)
	}
	return fault.Wrap(err, fault.Internal, reasonProvisioningFailed, "the disk's data can't be written: the disk service's log says why")
}

// remove takes the volume away. The loop keeps the disk while a VM holds it.
func (r *Reconciler) remove(ctx context.Context, disk *diskv1.VirtualDisk) (reconcile.Result, error) {
	o := observation{class: disk.GetStatus().GetStorageClassName()}
	uid := disk.GetMetadata().GetUid()
	volume, found, err := r.Volumes.Lookup(ctx, uid)
	if err != nil {
		return reconcile.Result{}, err
	}
	if found {
		o.volume = &volume
	}
	if activeHolder(disk) == nil {
		if err = r.clear(ctx, disk, found); err == nil {
			return reconcile.Result{Finalized: true}, nil
		}
	}
	return reconcile.Result{Status: r.status(disk, &o)}, err
}

// clear removes what a disk has. One that was not made yet may have a claim that
// isn't seen, and whoever leaves it keeps the image for ever.
func (r *Reconciler) clear(ctx context.Context, disk *diskv1.VirtualDisk, made bool) error {
	ref := disk.GetSpec().GetDataSource().GetObjectRef()
	var err error
	if made || ref == nil || ref.GetKind() == diskv1.DiskObjectRefKind_VirtualDiskSnapshot {
		err = r.release(ctx, disk)
	} else {
		err = r.Images.Release(ctx, ref, holderOf(disk))
	}
	if err != nil {
		return err
	}
	return r.Volumes.Remove(ctx, disk.GetMetadata().GetUid())
}

func activeHolder(disk *diskv1.VirtualDisk) *metav1.Holder {
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetActive() {
			return holder
		}
	}
	return nil
}
