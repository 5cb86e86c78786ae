package virtualimage

import (
	"context"

	"github.com/opencontainers/go-digest"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/intake"
)

// Disks is the disk service: what images are made from, and where those are kept
// that are not in DVCR.
type Disks interface {
	// Disk gives a disk to be read, and holds it for the image; Snapshot a snapshot,
	// where HasSnapshots.
	Disk(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error)
	Snapshot(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error)
	HasSnapshots() bool
	// Release lets go of all that is held for an image, but for what keep is true of.
	Release(ctx context.Context, imageUID string, keep func(kind string, key resource.Key) bool) error
	// EnsureVolume makes the volume of an image, or tells of it.
	EnsureVolume(ctx context.Context, request *diskv1.EnsureImageVolumeRequest) (*diskv1.ImageVolume, error)
	DeleteVolume(ctx context.Context, imageUID string) error
	// VolumeOrigin is the volume of an image as a file to read.
	VolumeOrigin(imageUID, name string) intake.Origin
}

// reasonNoClass is the disk service's for a storage class that isn't there.
const reasonNoClass = "StorageClassNotReady"

// onVolume reports whether an image is to be kept on a storage class.
func onVolume(spec *imagev1.VirtualImageSpec) bool {
	return spec.GetStorage() == imagev1.ImageStorage_PersistentVolumeClaim || spec.GetStorage() == imagev1.ImageStorage_Kubernetes
}

// look asks for the volume of an image, and notes it.
func (r *Reconciler[T]) look(ctx context.Context, image T, o *observation) error {
	return r.ensure(ctx, r.request(image), o)
}

func (r *Reconciler[T]) request(image T) *diskv1.EnsureImageVolumeRequest {
	return &diskv1.EnsureImageVolumeRequest{
		Owner: r.holder(image), Generation: image.GetMetadata().GetGeneration(),
		StorageClassName: r.Kind.spec(image).GetPersistentVolumeClaim().GetStorageClassName(),
	}
}

// ensure asks the disk service and notes its answer. What is published is what is
// on the volume.
func (r *Reconciler[T]) ensure(ctx context.Context, request *diskv1.EnsureImageVolumeRequest, o *observation) error {
	o.Published = nil
	volume, err := r.Disks.EnsureVolume(ctx, request)
	switch {
	case fault.ReasonOf(err) == reasonNoClass:
		o.classFault = fault.From(err)
		return err
	case fault.Is(err, fault.NotReady, fault.NotFound):
		o.Waits = waitsForDisk(err)
		return o.Waits
	case err != nil:
		o.Unseen = fault.From(err)
		return err
	}
	o.volume = volume
	if volume.GetMade() && !volume.GetLost() {
		o.Published = published(volume)
	}
	return nil
}

func waitsForDisk(err error) *fault.Fault {
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotReady, "VirtualDiskNotReady", "%s", fault.From(err).Message)
	}
	return fault.From(err)
}

// published is a volume in the words of what is in the registry.
func published(volume *diskv1.ImageVolume) *intake.Published {
	blob := volume.GetBlob()
	return &intake.Published{Artifact: dvcr.Artifact{
		Disk:   dvcr.Blob{Digest: digest.Digest(blob.GetDigest()), Size: blob.GetStoredBytes()},
		Format: blob.GetFormat(), VirtualBytes: blob.GetVirtualBytes(), CDROM: blob.GetCdrom(), SourceUID: volume.GetSourceUid(),
	}}
}

// stepOnVolume brings the image to DVCR, as any other, and then on its volume,
// which stands on what is there: no data is moved. What is on a volume already
// never comes to DVCR.
func (r *Reconciler[T]) stepOnVolume(ctx context.Context, image T, o *observation) error {
	if err := r.look(ctx, image, o); err != nil {
		return err
	}
	if o.volume.GetMade() {
		return r.leaveRegistry(ctx, image, o)
	}
	request := r.request(image)
	if err := r.volumeSource(ctx, image, request, o); err != nil || request.GetSource() == nil {
		return err
	}
	if err := r.ensure(ctx, request, o); err != nil {
		return err
	}
	return r.leaveRegistry(ctx, image, o)
}

// volumeSource finds what the volume can be made from; nothing where the image is
// still on its way.
func (r *Reconciler[T]) volumeSource(ctx context.Context, image T, request *diskv1.EnsureImageVolumeRequest, o *observation) error {
	wish := r.wish(image)
	ref := wish.Source.GetObjectRef()
	switch ref.GetKind() {
	case imagev1.ObjectRefKind_VirtualDisk:
		request.Source = &diskv1.EnsureImageVolumeRequest_Disk{Disk: &diskv1.ImageVolumeDisk{Namespace: wish.Namespace, Name: ref.GetName()}}
		return nil
	case imagev1.ObjectRefKind_VirtualDiskSnapshot:
		request.Source = &diskv1.EnsureImageVolumeRequest_Snapshot{Snapshot: &diskv1.ImageVolumeDisk{Namespace: wish.Namespace, Name: ref.GetName()}}
		return nil
	case imagev1.ObjectRefKind_VirtualImage:
		other, err := r.Images.Get(resource.Key{Namespace: wish.Namespace, Name: ref.GetName()})
		if err == nil && onVolume(r.Kind.spec(other)) && !resource.Terminating(other) {
			request.Source = &diskv1.EnsureImageVolumeRequest_ImageUid{ImageUid: other.GetMetadata().GetUid()}
			return nil
		}
	}
	var err error
	if o.Observation, err = r.Intake.Step(ctx, wish); err != nil || o.Published == nil {
		return err
	}
	request.SourceUid = o.Published.SourceUID
	request.Source = &diskv1.EnsureImageVolumeRequest_Blob{Blob: r.Intake.Registry.Blob(wish.Repository, o.Published)}
	return nil
}

// leaveRegistry removes what was in DVCR for an image that is on its volume.
func (r *Reconciler[T]) leaveRegistry(ctx context.Context, image T, o *observation) error {
	wish := r.wish(image)
	if _, imported := r.Intake.Imports.Last(wish.UID); !imported {
		return nil
	}
	if o.volume.GetLost() {
		return nil
	}
	_, err := r.Intake.Remove(ctx, wish)
	return err
}

// release lets go of the disks and snapshots that the image doesn't need any more.
func (r *Reconciler[T]) release(ctx context.Context, image T, o *observation) error {
	if r.Disks == nil {
		return nil
	}
	spec := r.Kind.spec(image)
	ref := spec.GetDataSource().GetObjectRef()
	over := o.Published != nil || phase(image, o) == imagev1.ImagePhase_Failed || resource.Terminating(image)
	return r.Disks.Release(ctx, image.GetMetadata().GetUid(), func(kind string, key resource.Key) bool {
		return !over && !onVolume(spec) && ref.GetKind().String() == kind &&
			key == resource.Key{Namespace: r.Kind.namespace(image), Name: ref.GetName()}
	})
}

// holder is the image as a holder of a disk.
func (r *Reconciler[T]) holder(image T) *metav1.Holder {
	meta := image.GetMetadata()
	return &metav1.Holder{
		Kind: r.Kind.as.String(), Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
	}
}
