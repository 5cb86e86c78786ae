// Package imagevolume keeps images on storage classes, for the image service: the
// ImageVolumeService.
//
// It owns what such an image is, and which content is held for it. It must not
// know how an image comes to be, nor what its status says.
package imagevolume

import (
	"context"
	"errors"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/record"
	"orlop.dev/services/disk/internal/layer"
)

const (
	reasonNotReady   = "VirtualDiskNotReady"
	reasonInUse      = "VirtualDiskNotReadyForUse"
	reasonImage      = "ImageNotReady"
	reasonSnapshot   = "VirtualDiskSnapshotNotReady"
	reasonNotOnDisks = "ProvisioningFailed"
)

// Volumes keeps contents by names.
type Volumes interface {
	Hold(ctx context.Context, name string, base layer.Base) error
	Held(ctx context.Context, name string) (layer.Held, bool, error)
	Unhold(ctx context.Context, name string) error
	// LayerOf is the layer with all of a disk that nobody has open.
	LayerOf(ctx context.Context, disk, name string) (string, error)
	HeldContent(ctx context.Context, name string) (layer.Content, error)
}

// Disks are the VirtualDisks that there are.
type Disks interface {
	AddHolder(ctx context.Context, key resource.Key, holder *metav1.Holder, admit func(*diskv1.VirtualDisk) error) (*diskv1.VirtualDisk, error)
	RemoveHolder(ctx context.Context, key resource.Key, holderUID string) (*diskv1.VirtualDisk, error)
}

// Snapshots finds the layer of a snapshot that is Ready.
type Snapshots interface {
	LayerOf(key resource.Key) (uid, layer string, err error)
}

// Classes says which storage class an image gets.
type Classes interface {
	ChooseForImage(ctx context.Context, name string) (*diskv1.StorageClass, error)
}

// Exports streams a content as a file.
type Exports interface {
	ReadContent(content layer.Content, request *diskv1.ReadDiskExportRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error
}

// Options say what the service works with. All but Snapshots are required.
type Options struct {
	Etcd    *clientv3.Client
	Prefix  string
	Volumes Volumes
	Disks   Disks
	Classes Classes
	Exports Exports
	// Snapshots is nil where there is no snapshot service.
	Snapshots Snapshots
	// Admit judges a holder of a disk, as for any other.
	Admit func(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error
}

// Service implements diskv1.ImageVolumeServiceServer.
type Service struct {
	diskv1.UnimplementedImageVolumeServiceServer

	options Options
	records *record.Store[volume, *volume]

	// mu makes each request one step: none takes long.
	mu sync.Mutex
}

// volume is what is remembered of an image's volume, written when it is there.
type volume struct {
	record.Version

	Generation   int32  `json:"generation"`
	Class        string `json:"class"`
	Claim        string `json:"claim"`
	Format       string `json:"format"`
	VirtualBytes int64  `json:"virtualBytes"`
	CDROM        bool   `json:"cdrom,omitempty"`
	SourceUID    string `json:"sourceUID,omitempty"`
}

// New returns the service.
func New(o Options) *Service {
	return &Service{options: o, records: record.New[volume](o.Etcd, o.Prefix+"/imagevolume/")}
}

// holdName is what an image's content is held as.
func holdName(uid string) string { return "image-" + uid }

// EnsureImageVolume implements diskv1.ImageVolumeServiceServer.
func (s *Service) EnsureImageVolume(ctx context.Context, r *diskv1.EnsureImageVolumeRequest) (*diskv1.ImageVolume, error) {
	owner := r.GetOwner()
	if !known(owner) {
		return nil, fault.Refuse("owner", "FieldValueRequired", "kind, namespace, name and uid are required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.records.Get(ctx, owner.GetUid())
	if err != nil {
		return nil, err
	}
	if v.Exists() && v.Generation == r.GetGeneration() {
		return s.tell(ctx, owner.GetUid(), v)
	}
	if v.Exists() {
		if err := s.drop(ctx, owner.GetUid()); err != nil {
			return nil, err
		}
	}
	class, err := s.options.Classes.ChooseForImage(ctx, r.GetStorageClassName())
	if err != nil {
		return nil, err
	}
	if r.GetSource() == nil {
		return &diskv1.ImageVolume{StorageClassName: class.GetName()}, nil
	}
	v = &volume{
		Generation: r.GetGeneration(), Class: class.GetName(),
		Claim: "d8v-vi-" + owner.GetName() + "-" + owner.GetUid(),
	}
	if err := s.make(ctx, r, v); err != nil {
		return nil, failure(err)
	}
	if err := s.records.Put(ctx, owner.GetUid(), v); err != nil {
		return nil, err
	}
	return s.tell(ctx, owner.GetUid(), v)
}

func known(owner *metav1.Holder) bool {
	return owner.GetUid() != "" && owner.GetName() != "" && owner.GetNamespace() != "" && owner.GetKind() != ""
}

// make holds the content of the source for an image.
func (s *Service) make(ctx context.Context, r *diskv1.EnsureImageVolumeRequest, v *volume) error {
	name := holdName(r.GetOwner().GetUid())
	switch source := r.GetSource().(type) {
	case *diskv1.EnsureImageVolumeRequest_Blob:
		blob := source.Blob
		if blob.GetPath() == "" {
			return fault.New(fault.NotReady, reasonNotOnDisks,
				"the storage of DVCR is not on this machine: configure its folder for the image service")
		}
		v.Format, v.VirtualBytes, v.CDROM, v.SourceUID = blob.GetFormat(), blob.GetVirtualBytes(), blob.GetCdrom(), r.GetSourceUid()
		return s.options.Volumes.Hold(ctx, name, layer.Base{Digest: blob.GetDigest(), Path: blob.GetPath(), Format: blob.GetFormat()})
	case *diskv1.EnsureImageVolumeRequest_ImageUid:
		return s.fromImage(ctx, source.ImageUid, name, v)
	case *diskv1.EnsureImageVolumeRequest_Disk:
		return s.fromDisk(ctx, r.GetOwner(), source.Disk, v)
	case *diskv1.EnsureImageVolumeRequest_Snapshot:
		return s.fromSnapshot(ctx, name, source.Snapshot, v)
	}
	return fault.Refuse("source", "FieldValueNotSupported", "it is none that is known")
}

func (s *Service) fromImage(ctx context.Context, uid, name string, v *volume) error {
	other, err := s.records.Get(ctx, uid)
	if err != nil {
		return err
	}
	held, found, err := s.options.Volumes.Held(ctx, holdName(uid))
	if err != nil {
		return err
	}
	if !other.Exists() || !found || held.Lost {
		return fault.New(fault.NotReady, reasonImage, "the image that it is made from has no volume")
	}
	v.Format, v.VirtualBytes, v.CDROM, v.SourceUID = other.Format, other.VirtualBytes, other.CDROM, uid
	return s.options.Volumes.Hold(ctx, name, held.Base)
}

// fromDisk holds what a disk shows. No VM may begin to write to it in between.
func (s *Service) fromDisk(ctx context.Context, owner *metav1.Holder, ref *diskv1.ImageVolumeDisk, v *volume) (err error) {
	key := resource.Key{Namespace: ref.GetNamespace(), Name: ref.GetName()}
	holder := &metav1.Holder{
		Kind: owner.GetKind(), Namespace: owner.GetNamespace(), Name: owner.GetName(), Uid: owner.GetUid(), Active: true,
	}
	disk, err := s.options.Disks.AddHolder(ctx, key, holder, func(current *diskv1.VirtualDisk) error {
		return s.options.Admit(ctx, current, holder)
	})
	if err != nil {
		return err
	}
	defer func() {
		_, ended := s.options.Disks.RemoveHolder(context.WithoutCancel(ctx), key, holder.GetUid())
		err = errors.Join(err, ended)
	}()
	name := holdName(owner.GetUid())
	frozen, err := s.options.Volumes.LayerOf(ctx, disk.GetMetadata().GetUid(), name)
	if err != nil {
		return err
	}
	if err := s.options.Volumes.Hold(ctx, name, layer.Base{Layer: frozen}); err != nil {
		return err
	}
	held, _, err := s.options.Volumes.Held(ctx, name)
	v.Format, v.VirtualBytes, v.SourceUID = held.Format, held.VirtualBytes, disk.GetMetadata().GetUid()
	return err
}

// fromSnapshot holds what a snapshot shows: it may go afterwards.
func (s *Service) fromSnapshot(ctx context.Context, name string, ref *diskv1.ImageVolumeDisk, v *volume) error {
	if s.options.Snapshots == nil {
		return fault.New(fault.NotReady, reasonSnapshot, "there is no snapshot service here")
	}
	uid, frozen, err := s.options.Snapshots.LayerOf(resource.Key{Namespace: ref.GetNamespace(), Name: ref.GetName()})
	if err != nil {
		return err
	}
	if err := s.options.Volumes.Hold(ctx, name, layer.Base{Layer: frozen}); err != nil {
		return fault.Wrap(err, fault.NotReady, reasonSnapshot, "VirtualDiskSnapshot %s has lost its data", ref.GetName())
	}
	held, _, err := s.options.Volumes.Held(ctx, name)
	v.Format, v.VirtualBytes, v.SourceUID = held.Format, held.VirtualBytes, uid
	return err
}

// failure says of what the storage can't do what a user can do about it.
func failure(err error) error {
	switch known := fault.From(err); {
	case errors.Is(err, layer.ErrBusy):
		return fault.Wrap(err, fault.NotReady, reasonInUse, "somebody still has the disk's data open")
	case errors.Is(err, layer.ErrNoVolume), errors.Is(err, layer.ErrNoLayer):
		return fault.Wrap(err, fault.NotReady, reasonNotReady, "the disk has no data")
	case known.Reason == "VirtualDiskAlreadyInUse":
		return fault.Wrap(err, fault.NotReady, "VirtualDiskAttachedToVirtualMachine", "%s", known.Message)
	}
	return err
}

// tell describes a volume that was made.
func (s *Service) tell(ctx context.Context, uid string, v *volume) (*diskv1.ImageVolume, error) {
	held, found, err := s.options.Volumes.Held(ctx, holdName(uid))
	if err != nil {
		return nil, err
	}
	return &diskv1.ImageVolume{
		StorageClassName: v.Class, PersistentVolumeClaimName: v.Claim, SourceUid: v.SourceUID,
		Made: true, Lost: !found || held.Lost,
		Blob: &imagev1.Blob{
			Digest: held.Digest, Format: v.Format, Path: held.Path, Layer: held.Layer,
			VirtualBytes: v.VirtualBytes, StoredBytes: held.OwnBytes, Cdrom: v.CDROM,
		},
	}, nil
}

// DeleteImageVolume implements diskv1.ImageVolumeServiceServer.
func (s *Service) DeleteImageVolume(ctx context.Context, r *diskv1.DeleteImageVolumeRequest) (*diskv1.DeleteImageVolumeResponse, error) {
	if r.GetOwnerUid() == "" {
		return nil, fault.Refuse("owner_uid", "FieldValueRequired", "Required value")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &diskv1.DeleteImageVolumeResponse{}, s.drop(ctx, r.GetOwnerUid())
}

func (s *Service) drop(ctx context.Context, uid string) error {
	if err := s.options.Volumes.Unhold(ctx, holdName(uid)); err != nil {
		return err
	}
	return s.records.Delete(ctx, uid)
}
