package virtualdisk

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/disk/internal/layer"
)

// Reasons of the condition DatasourceReady, and of faults.
const (
	reasonImageNotReady        = "ImageNotReady"
	reasonClusterImageNotReady = "ClusterImageNotReady"
	reasonImageNotFound        = "ImageNotFound"
	reasonClusterImageNotFound = "ClusterImageNotFound"
	reasonSecretNotFound       = "ContainerRegistrySecretNotFound"
	// api.md of the platform has this word for a snapshot that can't be used.
	reasonSnapshotNotReady   = "VirtualDiskSnapshot"
	reasonNotSupported       = "NotSupported"
	reasonProvisioningFailed = "ProvisioningFailed"
	reasonQuotaExceeded      = "QuotaExceeded"
)

// prepare brings the source to where the volume can be made from it, and
// reports whether it is there. It finds the size where the spec has none.
func (r *Reconciler) prepare(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (bool, error) {
	source := disk.GetSpec().GetDataSource()
	switch {
	case source == nil:
		return true, nil
	case source.GetType() != imagev1.DataSourceType_ObjectRef:
		return r.fetch(ctx, disk, o)
	case isSnapshot(source.GetObjectRef()):
		return r.prepareSnapshot(ctx, disk, o)
	}
	ref := source.GetObjectRef()
	o.image = r.Images.State(ref, disk.GetMetadata().GetNamespace())
	if waits := waiting(ref, o.image); waits != nil {
		o.sourceFault = waits
		return false, waits
	}
	// Judged before the claim: one that is made and given back tells of a change of
	// the image each time, and would begin all over.
	return true, fit(content{describe(ref), o.image.CDROM, o.image.VirtualBytes}, o)
}

// ground is what a volume is made on: a blob, a frozen layer, or nothing.
type ground struct {
	base  *layer.Base
	layer string
}

// ground finds what the volume is to stand on, kept by a claim or an import until
// it is made.
func (r *Reconciler) ground(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (ground, error) {
	source := disk.GetSpec().GetDataSource()
	switch {
	case source == nil:
		return ground{}, nil
	case isSnapshot(source.GetObjectRef()):
		frozen, err := r.claimSnapshot(ctx, disk, o)
		return ground{layer: frozen.GetLayer()}, err
	}
	base, err := r.base(ctx, disk, o)
	return ground{base: base}, err
}

// base is the blob of an image or of an imported file.
func (r *Reconciler) base(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (*layer.Base, error) {
	source := disk.GetSpec().GetDataSource()
	blob, name := o.file.GetBlob(), "the imported file"
	if ref := source.GetObjectRef(); source.GetType() == imagev1.DataSourceType_ObjectRef {
		if err := r.take(ctx, disk, o); err != nil {
			return nil, err
		}
		var err error
		if blob, err = r.Images.Claim(ctx, ref, holderOf(disk)); err != nil {
			o.sourceFault = fault.From(err)
			return nil, err
		}
		name = describe(ref)
	}
	if err := fit(content{name, blob.GetCdrom(), blob.GetVirtualBytes()}, o); err != nil {
		return nil, err
	}
	if blob.GetPath() == "" {
		return nil, fault.New(fault.NotReady, reasonProvisioningFailed,
			"the storage of DVCR is not on this machine: configure its folder for the image service")
	}
	return &layer.Base{Digest: blob.GetDigest(), Path: blob.GetPath(), Format: blob.GetFormat(), Layer: blob.GetLayer()}, nil
}

// content is what a disk is to be made from.
type content struct {
	name         string
	cdrom        bool
	virtualBytes int64
}

// fit says why no disk can be made from a content, and finds the size where the
// spec has none.
func fit(c content, o *observation) error {
	switch {
	case c.cdrom:
		return fault.New(fault.Invalid, reasonProvisioningFailed,
			"%s is an ISO image, from which no disk can be made: attach it to the VM as an image instead", c.name)
	case o.wantedBytes != 0 && o.wantedBytes < c.virtualBytes:
		return fault.New(fault.Invalid, reasonProvisioningFailed,
			"spec.persistentVolumeClaim.size %s is smaller than %s, which needs %s", quantity(o.wantedBytes), c.name, quantity(c.virtualBytes))
	case o.wantedBytes == 0:
		o.wantedBytes = roundUp(c.virtualBytes)
	}
	return nil
}

// take writes down that the image service is about to keep something for the
// disk: whoever forgets that keeps it for ever.
func (r *Reconciler) take(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	if o.record.Source != nil {
		return nil
	}
	text, err := protojson.Marshal(disk.GetSpec().GetDataSource())
	if err != nil {
		return err
	}
	o.record.Source = text
	return r.Origins.Put(ctx, disk.GetMetadata().GetUid(), o.record)
}

// giveBack ends what the image service keeps for the disk. Idempotent.
func (r *Reconciler) giveBack(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	if o.record.Source == nil {
		return nil
	}
	taken := new(diskv1.DiskDataSource)
	options := protojson.UnmarshalOptions{DiscardUnknown: true} // a newer version may have written it
	if err := options.Unmarshal(o.record.Source, taken); err != nil {
		return fmt.Errorf("source in the record: %w", err)
	}
	var err error
	switch ref := taken.GetObjectRef(); {
	case isSnapshot(ref) && r.Snapshots == nil:
		return fault.New(fault.NotReady, reasonSnapshotNotReady, "there is no snapshot service to give %s back to", describe(ref))
	case isSnapshot(ref):
		err = r.Snapshots.Release(ctx, ref.GetName(), holderOf(disk))
	case taken.GetType() == imagev1.DataSourceType_ObjectRef:
		err = r.Images.Release(ctx, taken.GetObjectRef(), holderOf(disk))
	default:
		err = r.Imports.Drop(ctx, holderOf(disk))
	}
	if err != nil {
		return err
	}
	o.record.Source = nil
	if o.volume == nil {
		o.record.Importing, o.record.Imported, o.record.Prepared = nil, nil, nil
	}
	return r.Origins.Put(ctx, disk.GetMetadata().GetUid(), o.record)
}

func sameSource(taken []byte, source *diskv1.DiskDataSource) bool {
	before := new(diskv1.DiskDataSource)
	return protojson.Unmarshal(taken, before) == nil && proto.Equal(before, source)
}

// waiting says what an image still lacks, nil where it is Ready.
func waiting(ref *diskv1.DiskObjectRef, image ImageState) *fault.Fault {
	notFound, notReady, service := reasonImageNotFound, reasonImageNotReady, "image"
	switch ref.GetKind() {
	case diskv1.DiskObjectRefKind_ClusterVirtualImage:
		notFound, notReady = reasonClusterImageNotFound, reasonClusterImageNotReady
	case diskv1.DiskObjectRefKind_VirtualDiskSnapshot:
		notFound, notReady, service = reasonSnapshotNotReady, reasonSnapshotNotReady, "snapshot"
	}
	switch {
	case image.Unknown:
		return fault.New(fault.NotReady, notReady, "waits for the %s service, which has not answered yet", service)
	case !image.Found:
		return fault.New(fault.NotReady, notFound, "waits for %s, which does not exist", describe(ref))
	case !image.Ready && image.Progress != "":
		return fault.New(fault.NotReady, notReady, "waits for %s: %s, %s", describe(ref), image.Phase, image.Progress)
	case !image.Ready:
		return fault.New(fault.NotReady, notReady, "waits for %s: %s", describe(ref), image.Phase)
	}
	return nil
}

func describe(ref *diskv1.DiskObjectRef) string {
	return fmt.Sprintf("%s %s", ref.GetKind(), ref.GetName())
}
