// Package freeze freezes disks for other services: what a disk shows becomes a
// layer that is kept by name.
//
// It owns the order of the steps at this service. It must not know what a snapshot
// is, nor how a VM is made to write to another file.
package freeze

import (
	"context"
	"errors"
	"syscall"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
)

// Reasons of faults.
const (
	reasonNotReady = "VirtualDiskNotReady"
	reasonInUse    = "VirtualDiskAlreadyInUse"
	reasonNoLayer  = "LayerNotFound"
	reasonFailed   = "FreezingFailed"
)

// again is when to try again what somebody still has open.
const (
	again = time.Second
	// manyAgain is when to ask again for a disk that has too many files.
	manyAgain = 30 * time.Second
)

const kindMachine = "VirtualMachine"

// Disks are the VirtualDisks that there are.
type Disks interface {
	// Fetch reads a disk as it is in the store itself: whose claim was granted
	// before is seen.
	Fetch(ctx context.Context, key resource.Key) (*diskv1.VirtualDisk, error)
}

// Volumes keeps the data of disks, by their UIDs.
type Volumes interface {
	BeginFreeze(ctx context.Context, f layer.Freezing) (layer.Layer, error)
	EndFreeze(ctx context.Context, volume, name string, switched bool) error
	Revert(ctx context.Context, volume, layer string) error
	Layer(ctx context.Context, name string) (layer.Layer, bool, error)
	Drop(ctx context.Context, name string) error
}

// Service implements diskv1.DiskFreezeServiceServer.
type Service struct {
	diskv1.UnimplementedDiskFreezeServiceServer

	Disks   Disks
	Volumes Volumes
}

// BeginDiskFreeze implements diskv1.DiskFreezeServiceServer.
func (s *Service) BeginDiskFreeze(ctx context.Context, request *diskv1.BeginDiskFreezeRequest) (*diskv1.DiskFreeze, error) {
	key := resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()}
	disk, err := s.find(ctx, key, request.GetUid())
	if err != nil {
		return nil, err
	}
	if _, begun, err := s.Volumes.Layer(ctx, request.GetLayer()); err != nil {
		return nil, failure(err, key)
	} else if phase := disk.GetStatus().GetPhase(); !begun && phase != diskv1.DiskPhase_Ready {
		return nil, fault.New(fault.NotReady, reasonNotReady, "disk %s is not Ready: %s", key.Name, nameOf(phase))
	}
	begun, err := s.Volumes.BeginFreeze(ctx, layer.Freezing{
		Volume: disk.GetMetadata().GetUid(), Layer: request.GetLayer(), Keep: true,
	})
	if err != nil {
		return nil, failure(err, key)
	}
	// Looked at once more: a VM that came in before the new file was there has the
	// old one.
	if disk, err = s.find(ctx, key, disk.GetMetadata().GetUid()); err != nil {
		return nil, err
	}
	return answer(disk, begun), nil
}

// EndDiskFreeze implements diskv1.DiskFreezeServiceServer. A disk that is gone
// has nobody who writes to it.
func (s *Service) EndDiskFreeze(ctx context.Context, request *diskv1.EndDiskFreezeRequest) (*diskv1.DiskFreeze, error) {
	key := resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()}
	disk, err := s.find(ctx, key, request.GetUid())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if user := userOf(disk); user != nil && !request.GetSwitched() {
		return nil, fault.New(fault.NotReady, reasonInUse, "%s %s runs with disk %s and writes to its old file",
			user.GetKind(), user.GetName(), key.Name).WithRetryAfter(again)
	}
	if err := s.Volumes.EndFreeze(ctx, request.GetUid(), request.GetLayer(), request.GetSwitched()); err != nil {
		return nil, failure(err, key)
	}
	ended, _, err := s.Volumes.Layer(ctx, request.GetLayer())
	if err != nil {
		return nil, failure(err, key)
	}
	return answer(disk, ended), nil
}

// RevertDisk implements diskv1.DiskFreezeServiceServer.
func (s *Service) RevertDisk(ctx context.Context, request *diskv1.RevertDiskRequest) (*diskv1.RevertDiskResponse, error) {
	key := resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()}
	disk, err := s.find(ctx, key, request.GetUid())
	if err != nil {
		return nil, err
	}
	if user := userOf(disk); user != nil {
		return nil, fault.New(fault.NotReady, reasonInUse, "%s %s runs with disk %s",
			user.GetKind(), user.GetName(), key.Name).WithRetryAfter(again)
	}
	if err := s.Volumes.Revert(ctx, disk.GetMetadata().GetUid(), request.GetLayer()); err != nil {
		return nil, failure(err, key)
	}
	return &diskv1.RevertDiskResponse{}, nil
}

// GetFrozenLayer implements diskv1.DiskFreezeServiceServer.
func (s *Service) GetFrozenLayer(ctx context.Context, request *diskv1.GetFrozenLayerRequest) (*diskv1.FrozenLayer, error) {
	found, there, err := s.Volumes.Layer(ctx, request.GetLayer())
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "layer %s can't be looked at", request.GetLayer())
	}
	if !there {
		return nil, fault.New(fault.NotFound, reasonNoLayer, "layer %s is not there", request.GetLayer())
	}
	return &diskv1.FrozenLayer{VirtualBytes: found.VirtualBytes, Lost: found.Lost, Frozen: !found.Switching}, nil
}

// DropFrozenLayer implements diskv1.DiskFreezeServiceServer.
func (s *Service) DropFrozenLayer(ctx context.Context, request *diskv1.DropFrozenLayerRequest) (*diskv1.DropFrozenLayerResponse, error) {
	if err := s.Volumes.Drop(ctx, request.GetLayer()); err != nil {
		return nil, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "layer %s can't be removed", request.GetLayer())
	}
	return &diskv1.DropFrozenLayerResponse{}, nil
}

// find returns the disk of that name and, where one is given, that UID.
func (s *Service) find(ctx context.Context, key resource.Key, uid string) (*diskv1.VirtualDisk, error) {
	disk, err := s.Disks.Fetch(ctx, key)
	if err != nil {
		return nil, err
	}
	if uid != "" && disk.GetMetadata().GetUid() != uid {
		return nil, fault.New(fault.NotFound, resource.ReasonNotFound, "disk %s is another one now", key.Name)
	}
	return disk, nil
}

func answer(disk *diskv1.VirtualDisk, l layer.Layer) *diskv1.DiskFreeze {
	return &diskv1.DiskFreeze{
		Frozen: !l.Switching, Path: l.Path, Format: layer.Format, VirtualBytes: l.VirtualBytes,
		Holder: userOf(disk), StorageClassName: disk.GetStatus().GetStorageClassName(),
	}
}

// userOf is the VM that may have the disk open, nil where there is none.
func userOf(disk *diskv1.VirtualDisk) *metav1.Holder {
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetActive() && holder.GetKind() == kindMachine {
			return holder
		}
	}
	return nil
}

func nameOf(phase diskv1.DiskPhase_Value) string {
	if phase == 0 {
		return diskv1.DiskPhase_Pending.String()
	}
	return phase.String()
}

// failure tells people what they can do something about.
func failure(err error, key resource.Key) error {
	switch {
	case errors.Is(err, layer.ErrNoVolume):
		return fault.Wrap(err, fault.NotReady, reasonNotReady, "disk %s has no data", key.Name)
	case errors.Is(err, layer.ErrNoLayer):
		return fault.Wrap(err, fault.NotFound, reasonNoLayer, "the layer of disk %s is not there", key.Name)
	case errors.Is(err, layer.ErrBusy):
		return fault.Wrap(err, fault.NotReady, reasonInUse, "somebody still has the data of disk %s open", key.Name).WithRetryAfter(again)
	case errors.Is(err, layer.ErrDeep):
		return fault.Wrap(err, fault.NotReady, reasonNotReady,
			"disk %s has as many snapshots on top of each other as can be: there is room for more when they have been made fewer files, which goes on in the background", key.Name).WithRetryAfter(manyAgain)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(err, fault.Exhausted, reasonFailed, "no space is left where disks are kept")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fault.Wrap(err, fault.Internal, reasonFailed, "disk %s can't be frozen: the disk service's log says why", key.Name)
}
