// Package tree tells what disks are made of: what stands on what, and what each
// part costs.
//
// It only looks. It must not know how layers come and go.
package tree

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/labels"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
)

// Disks are the VirtualDisks that there are.
type Disks interface {
	Get(key resource.Key) (*diskv1.VirtualDisk, error)
	All(namespace string, selector labels.Selector) ([]*diskv1.VirtualDisk, error)
}

// Volumes keeps the data of disks, by their UIDs.
type Volumes interface {
	Pieces(ctx context.Context, id string) ([]layer.Piece, error)
}

// Service implements diskv1.DiskLayerServiceServer.
type Service struct {
	diskv1.UnimplementedDiskLayerServiceServer

	Disks   Disks
	Volumes Volumes
}

// GetDiskTree implements diskv1.DiskLayerServiceServer. A disk that is not made
// yet has no parts.
func (s *Service) GetDiskTree(ctx context.Context, request *diskv1.GetDiskTreeRequest) (*diskv1.DiskTree, error) {
	disk, err := s.Disks.Get(resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()})
	if err != nil {
		return nil, err
	}
	neighbours, err := s.Disks.All(request.GetNamespace(), nil)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, other := range neighbours {
		names[other.GetMetadata().GetUid()] = other.GetMetadata().GetName()
	}
	tree := &diskv1.DiskTree{Namespace: request.GetNamespace(), Name: request.GetName()}
	pieces, err := s.Volumes.Pieces(ctx, disk.GetMetadata().GetUid())
	if errors.Is(err, layer.ErrNoVolume) {
		return tree, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "what disk %s is made of can't be told", request.GetName())
	}
	for _, piece := range pieces {
		tree.Parts = append(tree.Parts, part(piece, names))
	}
	return tree, nil
}

// part describes a piece. Who has a right to one namespace learns no names of
// another.
func part(piece layer.Piece, names map[string]string) *diskv1.DiskPart {
	p := &diskv1.DiskPart{
		Id: piece.Name, Format: piece.Format, VirtualBytes: piece.VirtualBytes, OwnBytes: piece.OwnBytes, Kept: piece.Kept,
	}
	switch piece.Kind {
	case layer.Top:
		p.Kind, p.Id = diskv1.DiskPartKind_Disk, ""
	case layer.Frozen:
		p.Kind = diskv1.DiskPartKind_Layer
	case layer.Image:
		p.Kind = diskv1.DiskPartKind_Image
	}
	for _, id := range piece.Users {
		if name, ours := names[id]; ours {
			p.SharedWith = append(p.SharedWith, name)
		} else {
			p.SharedElsewhere++
		}
	}
	return p
}
