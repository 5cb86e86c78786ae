package virtualdisk

import (
	"context"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
)

// kindMachine is the kind of holders that run with a disk. Others read it.
const kindMachine = "VirtualMachine"

// AdmitHolder refuses a second one that wants to use the disk: two VMs would
// destroy its content. Those that only read it may be many, and so may VMs that
// only refer to it. A VM that wants to run with a disk that waits for its first
// consumer is let in, and is that one.
func (r *Reconciler) AdmitHolder(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error {
	if !holder.GetActive() {
		return nil
	}
	if other := rival(disk, holder); other != nil {
		return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "disk %s is in use by %s %s",
			disk.GetMetadata().GetName(), other.GetKind(), other.GetName())
	}
	if activeHolder(disk) == nil && resource.Terminating(disk) {
		return fault.New(fault.NotReady, resource.ReasonTerminating, "disk %s is being deleted", disk.GetMetadata().GetName())
	}
	_, err := r.reach(ctx, disk, holder)
	return err
}

// Answer tells a holder where the data is. The path is empty for one that only
// refers to a disk that is not made yet, and for a first consumer until it is.
func (r *Reconciler) Answer(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) (proto.Message, error) {
	return r.reach(ctx, disk, holder)
}

// reach finds the disk's volume for a holder.
func (r *Reconciler) reach(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) (*diskv1.Volume, error) {
	uid := disk.GetMetadata().GetUid()
	volume, found, err := r.Volumes.Lookup(ctx, uid)
	if err != nil {
		return nil, err
	}
	record, err := r.Origins.Get(ctx, uid)
	if err != nil {
		return nil, err
	}
	wanted, refusal := wantedSize(disk)
	if refusal != nil {
		return nil, refusal
	}
	if !found || volume.Lost {
		return r.withoutVolume(ctx, disk, holder, found || record.Made != nil, record.Prepared != nil)
	}
	if holder.GetActive() && volume.Mirror.Place != "" && holder.GetTargetNode() != volume.Mirror.Place {
		// Which of both is the volume must be known before anybody uses it.
		if volume, err = r.endMirror(ctx, uid); err != nil {
			return nil, err
		}
	}
	answer := &diskv1.Volume{
		Path: volume.Path, Format: layer.Format, VirtualBytes: volume.VirtualBytes, Node: nodeOf(volume, record),
		WantedBytes: max(wanted, volume.VirtualBytes),
	}
	if place := holder.GetTargetNode(); place != "" && place == volume.Mirror.Place {
		answer.TargetPath, answer.TargetMark = volume.Mirror.Path, volume.Mirror.Mark
	}
	return answer, nil
}

// withoutVolume is what a holder is told of a disk that has none: it was lost, or
// everything is prepared for making it, or not yet.
func (r *Reconciler) withoutVolume(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder, lost, prepared bool) (*diskv1.Volume, error) {
	name := disk.GetMetadata().GetName()
	switch {
	case !holder.GetActive():
		return &diskv1.Volume{}, nil
	case lost:
		return nil, fault.New(fault.NotReady, "VirtualDiskNotReady", "disk %s has lost its data", name)
	case holder.GetKind() == kindMachine && prepared:
		class, err := r.Classes.Choose(ctx, disk.GetSpec().GetPersistentVolumeClaim().GetStorageClassName())
		if err != nil {
			return nil, err
		}
		if waitsForConsumer(class) {
			return &diskv1.Volume{}, nil
		}
	}
	return nil, fault.New(fault.NotReady, "VirtualDiskNotReady", "disk %s is not Ready: %s", name, disk.GetStatus().GetPhase())
}

// rival is who uses the disk so that holder can't, nil where nobody does.
func rival(disk *diskv1.VirtualDisk, holder *metav1.Holder) *metav1.Holder {
	other := activeHolder(disk)
	if other == nil || other.GetUid() == holder.GetUid() {
		return nil
	}
	if other.GetKind() != kindMachine && holder.GetKind() != kindMachine {
		return nil // both only read
	}
	return other
}

// activeHolder is the one that uses the disk, nil where nobody does: the VM if
// there is one, then who makes an image of it, then any.
func activeHolder(disk *diskv1.VirtualDisk) *metav1.Holder {
	var found *metav1.Holder
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetActive() && (found == nil || weight(holder) > weight(found)) {
			found = holder
		}
	}
	return found
}

// weight orders holders as the condition InUse tells of them.
func weight(holder *metav1.Holder) int {
	switch useOf(holder.GetKind()) {
	case reasonAttached:
		return 2
	case reasonForImage:
		return 1
	}
	return 0
}

func waitsForConsumer(class *diskv1.StorageClass) bool {
	return class.GetVolumeBindingMode() == diskv1.VolumeBindingMode_WaitForFirstConsumer
}

// firstConsumer finds the node of the VM that wants to run with the disk.
func firstConsumer(disk *diskv1.VirtualDisk) (node string, found bool) {
	holder := activeHolder(disk)
	return holder.GetNode(), holder.GetKind() == kindMachine
}
