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

// AdmitHolder refuses a second VM that wants to run with the disk: two would
// destroy its content. VMs that only refer to it may be many.
func (r *Reconciler) AdmitHolder(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error {
	if !holder.GetActive() {
		return nil
	}
	if other := activeHolder(disk); other != nil && other.GetUid() != holder.GetUid() {
		return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "disk %s is in use by %s %s",
			disk.GetMetadata().GetName(), other.GetKind(), other.GetName())
	}
	if activeHolder(disk) == nil && resource.Terminating(disk) {
		return fault.New(fault.NotReady, resource.ReasonTerminating, "disk %s is being deleted", disk.GetMetadata().GetName())
	}
	_, err := r.volume(ctx, disk)
	return err
}

// Answer tells a holder where the data is. One that only refers to the disk
// may do so before the disk is made.
func (r *Reconciler) Answer(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) (proto.Message, error) {
	volume, err := r.volume(ctx, disk)
	if err != nil && !holder.GetActive() && fault.Is(err, fault.NotReady) {
		return &diskv1.Volume{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &diskv1.Volume{Path: volume.Path, Format: layer.Format, VirtualBytes: volume.VirtualBytes}, nil
}

func (r *Reconciler) volume(ctx context.Context, disk *diskv1.VirtualDisk) (layer.Volume, error) {
	volume, found, err := r.Volumes.Lookup(ctx, disk.GetMetadata().GetUid())
	if err != nil {
		return layer.Volume{}, err
	}
	if !found {
		return layer.Volume{}, fault.New(fault.NotReady, "VirtualDiskNotReady", "disk %s is not Ready: %s",
			disk.GetMetadata().GetName(), disk.GetStatus().GetPhase())
	}
	return volume, nil
}
