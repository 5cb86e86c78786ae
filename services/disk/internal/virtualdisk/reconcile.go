// Package virtualdisk has the rules of a VirtualDisk: what it waits for, how it
// comes to be, what its status says.
//
// It must not know how data is stored (package layer does), nor what images are
// beyond their being Ready and having a blob.
package virtualdisk

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
	"orlop.dev/services/disk/internal/storageclass"
)

// lookAgain is how often a disk is looked at that waits for something of which
// no event may tell: a volume that comes back, a VM that makes it larger.
const lookAgain = 10 * time.Second

// mirrorAgain is how soon a volume is looked at that can't be copied yet.
const mirrorAgain = time.Second

// inspectEvery is how often a disk is looked at that lacks nothing: nobody tells
// of data that is gone.
const inspectEvery = time.Minute

// Reconciler makes disks.
type Reconciler struct {
	Volumes Volumes
	Layers  Layers
	Images  Images
	// Snapshots is nil where there is no snapshot service.
	Snapshots Snapshots
	Imports   Imports
	Origins   Origins
	Classes   Classes
	Space     Space
	// Overcommit is how many times the free space disks may be promised; 0 is no
	// limit.
	Overcommit float64
	Now        func() time.Time

	// making makes looking for room and taking it one step.
	making sync.Mutex
}

// observation is what one look at a disk found, and all that its status is made
// from.
type observation struct {
	record *origin.Record
	class  string
	volume *layer.Volume
	// image is the source of type ObjectRef, file any other one; file is nil before
	// it was asked for.
	image ImageState
	file  *imagev1.Import
	// lost is a volume that was there and is not any more. awaits is a disk that
	// lacks nothing but its first consumer.
	lost, awaits bool
	// Why the next step can't be done; nil where it could.
	classFault, sourceFault, volumeFault *fault.Fault
	// wantedBytes is the size that the spec and the source ask for.
	wantedBytes int64
	// again is when to look next; zero where events will tell.
	again time.Duration
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, disk *diskv1.VirtualDisk) (reconcile.Result, error) {
	o := new(observation)
	if err := r.observe(ctx, disk, o); err != nil {
		return reconcile.Result{}, err
	}
	if deleted(disk) {
		gone, err := r.remove(ctx, disk, o)
		if gone && err == nil {
			return reconcile.Result{Finalized: true}, nil
		}
		return reconcile.Result{Status: r.status(disk, o)}, err
	}
	err := r.step(ctx, disk, o)
	return reconcile.Result{Status: r.status(disk, o), After: o.again}, err
}

// observe finds what is there.
func (r *Reconciler) observe(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	uid := disk.GetMetadata().GetUid()
	var err error
	if o.record, err = r.Origins.Get(ctx, uid); err != nil {
		return err
	}
	volume, found, err := r.Volumes.Lookup(ctx, uid)
	if err != nil {
		return err
	}
	if found && !volume.Lost {
		if volume.VirtualBytes, err = r.Volumes.Measure(ctx, uid); err != nil {
			return err
		}
		o.volume = &volume
	}
	o.lost = found && volume.Lost || !found && o.record.Made != nil
	o.class = o.record.Class
	return nil
}

// step does what is to be done next.
func (r *Reconciler) step(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	switch {
	case o.volume != nil:
		return r.keep(ctx, disk, o)
	case o.lost:
		// Made anew it would be empty, and nobody would know.
		o.again = lookAgain
		return nil
	}
	return r.create(ctx, disk, o)
}

// keep looks after a volume that is there: it grows with its spec, and is copied
// to the node that its VM moves to.
func (r *Reconciler) keep(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	if err := r.settle(ctx, disk, o); err != nil {
		return err
	}
	if err := r.mirror(ctx, disk, o); err != nil {
		return err
	}
	wanted, refusal := wantedSize(disk)
	if refusal != nil {
		return refusal
	}
	if o.again == 0 {
		o.again = inspectEvery
	}
	o.wantedBytes = max(wanted, o.volume.VirtualBytes)
	if o.wantedBytes == o.volume.VirtualBytes {
		return nil
	}
	if err := r.hasRoom(ctx, o, o.wantedBytes-o.volume.VirtualBytes); err != nil {
		return err
	}
	if activeHolder(disk) != nil {
		// QEMU has the volume open: the VM service makes it larger.
		o.again = lookAgain
		return nil
	}
	if err := r.Volumes.Grow(ctx, disk.GetMetadata().GetUid(), o.wantedBytes); err != nil {
		o.volumeFault = volumeFault(err)
		return o.volumeFault
	}
	o.volume.VirtualBytes = o.wantedBytes
	return nil
}

// settle writes down that a volume is there, and gives back what it was made
// from: it needs neither any more.
func (r *Reconciler) settle(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	if err := r.giveBack(ctx, disk, o); err != nil {
		return err
	}
	if o.record.Made != nil && o.record.Bytes == o.volume.VirtualBytes {
		return nil
	}
	if o.record.Class == "" { // made by a version that kept no records
		o.record.Class = storageclass.Local
		o.class = o.record.Class
	}
	o.record.Bytes = o.volume.VirtualBytes
	stamp(r.Now(), &o.record.Made)
	return r.Origins.Put(ctx, disk.GetMetadata().GetUid(), o.record)
}

// create makes the volume, once everything that it needs is there.
func (r *Reconciler) create(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	class, err := r.Classes.Choose(ctx, disk.GetSpec().GetPersistentVolumeClaim().GetStorageClassName())
	if err != nil {
		o.class, o.classFault = "", fault.From(err)
		return err
	}
	o.class = class.GetName()
	var refusal *fault.Fault
	if o.wantedBytes, refusal = wantedSize(disk); refusal != nil {
		o.volumeFault = refusal
		return refusal
	}
	if changed := o.record.Source != nil && !sameSource(o.record.Source, disk.GetSpec().GetDataSource()); changed {
		if err := r.giveBack(ctx, disk, o); err != nil {
			return err
		}
	}
	ready, err := r.prepare(ctx, disk, o)
	if err != nil || !ready {
		if o.sourceFault == nil && o.volumeFault == nil {
			o.volumeFault = fault.From(err)
		}
		return err
	}
	return r.place(ctx, disk, o, class)
}

// place says where the volume is to be, once that is known, and makes it.
func (r *Reconciler) place(ctx context.Context, disk *diskv1.VirtualDisk, o *observation, class *diskv1.StorageClass) error {
	prepared := stamp(r.Now(), &o.record.Prepared)
	o.record.Class, o.record.Node = class.GetName(), ""
	if waitsForConsumer(class) {
		node, found := firstConsumer(disk)
		if !found {
			o.awaits = true
			return r.note(ctx, disk, o, prepared)
		}
		o.record.Node = node
		stamp(r.Now(), &o.record.Consumed)
	}
	return r.make(ctx, disk, o)
}

// make makes the volume. What is written down first is where, and what it is
// made from: neither may be forgotten half-way.
func (r *Reconciler) make(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	// Looked at now, so that a disk without room holds no image, and again when
	// the room is taken.
	if err := r.hasRoom(ctx, o, o.wantedBytes); err != nil {
		return err
	}
	if err := r.Origins.Put(ctx, disk.GetMetadata().GetUid(), o.record); err != nil {
		return err
	}
	ground, err := r.ground(ctx, disk, o)
	if err != nil {
		if o.sourceFault == nil {
			o.volumeFault = fault.From(err)
		}
		return err
	}
	if err := r.fill(ctx, disk, o, ground); err != nil {
		return err
	}
	return r.settle(ctx, disk, o)
}

// fill makes the volume if there is room for it, one at a time: they share the
// room.
func (r *Reconciler) fill(ctx context.Context, disk *diskv1.VirtualDisk, o *observation, g ground) error {
	r.making.Lock()
	defer r.making.Unlock()
	if err := r.hasRoom(ctx, o, o.wantedBytes); err != nil {
		return err
	}
	uid := disk.GetMetadata().GetUid()
	var err error
	if g.layer != "" {
		err = r.Layers.Clone(ctx, uid, g.layer, o.wantedBytes)
	} else {
		err = r.Volumes.Make(ctx, uid, g.base, o.wantedBytes)
	}
	if err != nil {
		o.volumeFault = volumeFault(err)
		return o.volumeFault
	}
	o.volume = &layer.Volume{VirtualBytes: o.wantedBytes}
	return nil
}

// volumeFault tells people what they can do something about; the rest is in the
// log alone.
func volumeFault(err error) *fault.Fault {
	var known *fault.Fault
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, layer.ErrBusy):
		return fault.Wrap(err, fault.NotReady, reasonProvisioningFailed, "somebody still has the disk's data open").WithRetryAfter(lookAgain)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(err, fault.Exhausted, reasonProvisioningFailed, "no space is left where disks are kept").WithRetryAfter(lookAgain)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.From(err)
	}
	return fault.Wrap(err, fault.Internal, reasonProvisioningFailed, "the disk's data can't be written: the disk service's log says why")
}

// remove takes the volume away, and reports whether nothing is left. The loop
// keeps the disk while somebody uses it.
func (r *Reconciler) remove(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (bool, error) {
	if activeHolder(disk) != nil {
		return false, nil
	}
	if err := r.giveBack(ctx, disk, o); err != nil {
		return false, err
	}
	uid := disk.GetMetadata().GetUid()
	if err := r.Volumes.Remove(ctx, uid); err != nil {
		return false, err
	}
	return true, r.Origins.Delete(ctx, uid)
}

// note writes the record if one of the changes was one.
func (r *Reconciler) note(ctx context.Context, disk *diskv1.VirtualDisk, o *observation, changes ...bool) error {
	for _, changed := range changes {
		if changed {
			return r.Origins.Put(ctx, disk.GetMetadata().GetUid(), o.record)
		}
	}
	return nil
}

// stamp sets a time that was not set before, and reports whether it did.
func stamp(now time.Time, at **time.Time) bool {
	if *at != nil {
		return false
	}
	*at = &now
	return true
}

func deleted(disk *diskv1.VirtualDisk) bool { return disk.GetMetadata().GetDeletionTimestamp() != nil }

// holderOf is the disk as the image service knows it.
func holderOf(disk *diskv1.VirtualDisk) *metav1.Holder {
	meta := disk.GetMetadata()
	return &metav1.Holder{
		Kind: "VirtualDisk", Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
	}
}
