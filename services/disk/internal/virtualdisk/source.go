package virtualdisk

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/disk/internal/layer"
)

// Reasons of the condition DatasourceReady, and of faults.
const (
	reasonImageNotReady        = "ImageNotReady"
	reasonClusterImageNotReady = "ClusterImageNotReady"
	reasonImageNotFound        = "ImageNotFound"
	reasonClusterImageNotFound = "ClusterImageNotFound"
	reasonNotSupported         = "NotSupported"
	reasonProvisioningFailed   = "ProvisioningFailed"
)

// sectorBytes is what every disk's size is a multiple of.
const sectorBytes = 512

// base finds what the volume is to stand on, and makes the wanted size at least
// as large; nil for an empty disk.
func (r *Reconciler) base(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (*layer.Base, error) {
	source := disk.GetSpec().GetDataSource()
	if source == nil {
		return nil, nil
	}
	if refusal := supported(source); refusal != nil {
		return nil, refusal
	}
	ref := source.GetObjectRef()
	o.source = r.Images.State(ref, disk.GetMetadata().GetNamespace())
	if waits := waiting(ref, o.source); waits != nil {
		o.sourceFault = waits
		return nil, waits
	}
	// Judged before the claim: one that is made and given back tells of a change of
	// the image each time, and would begin all over.
	if refusal := refuse(ref, o); refusal != nil {
		return nil, refusal
	}
	blob, err := r.Images.Claim(ctx, ref, holderOf(disk))
	if err != nil {
		o.sourceFault = fault.From(err)
		return nil, err
	}
	o.source.CDROM, o.source.VirtualBytes = blob.GetCdrom(), blob.GetVirtualBytes()
	if refusal := refuse(ref, o); refusal != nil {
		return nil, refusal
	}
	if blob.GetPath() == "" {
		return nil, fault.New(fault.NotReady, reasonProvisioningFailed,
			"the storage of DVCR is not on this machine: configure its folder for the image service")
	}
	if o.wantedBytes == 0 {
		o.wantedBytes = roundUp(blob.GetVirtualBytes())
	}
	return &layer.Base{Digest: blob.GetDigest(), Path: blob.GetPath(), Format: blob.GetFormat()}, nil
}

// refuse says why no disk can be made from an image, nil where one can.
func refuse(ref *diskv1.DiskObjectRef, o *observation) error {
	switch {
	case o.source.CDROM:
		return fault.New(fault.Invalid, reasonProvisioningFailed,
			"%s is an ISO image, from which no disk can be made: attach it to the VM instead", describe(ref))
	case o.wantedBytes != 0 && o.wantedBytes < o.source.VirtualBytes:
		return fault.New(fault.Invalid, reasonProvisioningFailed,
			"spec.persistentVolumeClaim.size %s is smaller than %s, which needs %s", quantity(o.wantedBytes), describe(ref), quantity(o.source.VirtualBytes))
	}
	return nil
}

func supported(source *diskv1.DiskDataSource) *fault.Fault {
	if source.GetType() != imagev1.DataSourceType_ObjectRef {
		return fault.New(fault.Invalid, reasonNotSupported,
			"spec.dataSource.type %s is not supported for disks yet: make a VirtualImage from it, and the disk from the image", source.GetType())
	}
	if source.GetObjectRef().GetKind() == diskv1.DiskObjectRefKind_VirtualDiskSnapshot {
		return fault.New(fault.Invalid, reasonNotSupported, "spec.dataSource.objectRef.kind VirtualDiskSnapshot is not supported yet")
	}
	return nil
}

// waiting says what an image still lacks, nil where it is Ready.
func waiting(ref *diskv1.DiskObjectRef, image ImageState) *fault.Fault {
	notFound, notReady := reasonImageNotFound, reasonImageNotReady
	if ref.GetKind() == diskv1.DiskObjectRefKind_ClusterVirtualImage {
		notFound, notReady = reasonClusterImageNotFound, reasonClusterImageNotReady
	}
	switch {
	case image.Unknown:
		return fault.New(fault.NotReady, notReady, "waits for the image service, which has not answered yet")
	case !image.Found:
		return fault.New(fault.NotReady, notFound, "waits for %s, which does not exist", describe(ref))
	case !image.Ready && image.Progress != "":
		return fault.New(fault.NotReady, notReady, "waits for %s: %s, %s", describe(ref), image.Phase, image.Progress)
	case !image.Ready:
		return fault.New(fault.NotReady, notReady, "waits for %s: %s", describe(ref), image.Phase)
	}
	return nil
}

// release ends the disk's claim on its image: the layer is its own by now.
func (r *Reconciler) release(ctx context.Context, disk *diskv1.VirtualDisk) error {
	ref := disk.GetSpec().GetDataSource().GetObjectRef()
	if ref == nil {
		return nil
	}
	image := r.Images.State(ref, disk.GetMetadata().GetNamespace())
	if !image.Found || image.HeldBy == nil || !image.HeldBy(disk.GetMetadata().GetUid()) {
		return nil
	}
	return r.Images.Release(ctx, ref, holderOf(disk))
}

func holderOf(disk *diskv1.VirtualDisk) *metav1.Holder {
	meta := disk.GetMetadata()
	return &metav1.Holder{
		Kind: "VirtualDisk", Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
	}
}

// wantedSize is the size that the spec asks for, in bytes; 0 where the source
// decides.
func wantedSize(disk *diskv1.VirtualDisk) (int64, *fault.Fault) {
	text := disk.GetSpec().GetPersistentVolumeClaim().GetSize()
	if text == "" {
		return 0, nil
	}
	const path = "spec.persistentVolumeClaim.size"
	size, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fault.Refuse(path, "FieldValueInvalid", "%q is no quantity, such as 10Gi", text)
	}
	if size.Sign() <= 0 {
		return 0, fault.Refuse(path, "FieldValueInvalid", "must be greater than zero")
	}
	bytes, exact := size.AsInt64()
	if !exact {
		return 0, fault.Refuse(path, "FieldValueInvalid", "%s is no whole number of bytes, or too large", text)
	}
	return roundUp(bytes), nil
}

func roundUp(bytes int64) int64 { return (bytes + sectorBytes - 1) / sectorBytes * sectorBytes }

func quantity(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }

func describe(ref *diskv1.DiskObjectRef) string {
	return fmt.Sprintf("%s %s", ref.GetKind(), ref.GetName())
}
