package virtualimage

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
)

// API groups of rights.
const (
	resourceGroup    = "virtualization.deckhouse.io"
	subresourceGroup = "subresources.virtualization.deckhouse.io"
)

// Admit refuses what the schema can't know to be wrong. Whether an image is Ready
// is asked of the registry: its spec can't be changed while that is away.
func (r *Reconciler[T]) Admit(ctx context.Context, old, image T) error {
	if isNil(image) {
		return nil
	}
	if isNil(old) {
		if strings.Contains(image.GetMetadata().GetName(), ".") {
			return fault.Refuse("metadata.name", "FieldValueInvalid", "must not contain a dot")
		}
		return r.mayName(ctx, image)
	}
	before, after := r.Kind.spec(old), r.Kind.spec(image)
	moved := r.Kind.namespace(old) != r.Kind.namespace(image)
	if proto.Equal(before, after) && !moved {
		return nil
	}
	if resource.Terminating(old) {
		return fault.Refuse("spec", "FieldValueForbidden", "the image is being deleted and can't be changed")
	}
	made, err := r.made(ctx, old)
	if err != nil {
		return err
	}
	if !made {
		return r.mayName(ctx, image)
	}
	path := "spec.dataSource"
	if proto.Equal(before.GetDataSource(), after.GetDataSource()) && !moved {
		path = "spec"
	}
	return fault.Refuse(path, "FieldValueForbidden",
		"can't be changed once the image is Ready: create another image")
}

// isNil reports the zero object, which Admit gets for what is not there.
func isNil(image resource.Object) bool { return image == nil || !image.ProtoReflect().IsValid() }

// supported refuses what the schema allows and this service doesn't do yet.
func (r *Reconciler[T]) supported(spec *imagev1.VirtualImageSpec) *fault.Fault {
	if storage := spec.GetStorage(); onVolume(spec) && r.Disks == nil {
		return fault.New(fault.Invalid, intake.ReasonNotSupported,
			"spec.storage %s needs a disk service, and there is none here: use ContainerRegistry", storage).
			WithField(pathStorage, intake.ReasonNotSupported, storage.String()+" needs a disk service")
	}
	ref := spec.GetDataSource().GetObjectRef()
	if ref == nil {
		return nil
	}
	if !r.reads(ref.GetKind()) {
		return fault.New(fault.Invalid, intake.ReasonNotSupported,
			"spec.dataSource.objectRef.kind %s is not supported here: use VirtualImage or ClusterVirtualImage", ref.GetKind()).
			WithField(pathSource, intake.ReasonNotSupported, ref.GetKind().String()+" is not supported here")
	}
	return nil
}

// reads reports whether images can be made here from objects of a kind.
func (r *Reconciler[T]) reads(kind imagev1.ObjectRefKind_Value) bool {
	switch kind {
	case imagev1.ObjectRefKind_VirtualDisk:
		return r.Disks != nil
	case imagev1.ObjectRefKind_VirtualDiskSnapshot:
		return r.Disks != nil && r.Disks.HasSnapshots()
	}
	return true
}

// rights are what is needed to name an object of a kind that images are made from:
// to make one from a disk, or from its snapshot, is to read it.
var rights = map[imagev1.ObjectRefKind_Value]auth.Attributes{
	imagev1.ObjectRefKind_VirtualImage:        {Group: resourceGroup, Resource: "virtualimages"},
	imagev1.ObjectRefKind_ClusterVirtualImage: {Group: resourceGroup, Resource: "clustervirtualimages"},
	imagev1.ObjectRefKind_VirtualDisk:         {Group: subresourceGroup, Resource: "virtualdisks", Subresource: "export"},
	imagev1.ObjectRefKind_VirtualDiskSnapshot: {Group: subresourceGroup, Resource: "virtualdisksnapshots", Subresource: "export"},
}

// made reports whether the image is there, or was: its spec can't be changed any
// more.
func (r *Reconciler[T]) made(ctx context.Context, image T) (bool, error) {
	if r.Disks == nil || !onVolume(r.Kind.spec(image)) {
		found, err := r.Intake.Current(ctx, r.wish(image))
		return found != nil || err == nil && r.Intake.Lost(r.wish(image)), err
	}
	var o observation
	err := r.look(ctx, image, &o)
	if o.classFault != nil || o.Waits != nil {
		return false, nil //nolint:nilerr // What is waited for is told in o.
	}
	return o.volume.GetMade(), err
}

// mayName refuses an image that names what its author may not read: a Secret, or
// an object of a namespace that the image itself isn't in.
func (r *Reconciler[T]) mayName(ctx context.Context, image T) error {
	source, namespace := r.Kind.spec(image).GetDataSource(), r.Kind.namespace(image)
	if secret := source.GetContainerImage().GetImagePullSecret(); secret != nil {
		if namespace == "" || secret.GetName() == "" {
			return fault.Refuse("spec.dataSource.containerImage.imagePullSecret", "FieldValueRequired", "a Secret is named by its name and namespace")
		}
		return auth.RequireOfCaller(ctx, auth.Attributes{
			Verb: "get", Resource: "secrets", Namespace: namespace, Name: secret.GetName(),
		})
	}
	ref := source.GetObjectRef()
	if ref == nil || namespace == image.GetMetadata().GetNamespace() || ref.GetKind() == imagev1.ObjectRefKind_ClusterVirtualImage {
		return nil
	}
	right, known := rights[ref.GetKind()]
	if !known {
		return nil // refused by name, later
	}
	right.Verb, right.Namespace, right.Name = "get", namespace, ref.GetName()
	return auth.RequireOfCaller(ctx, right)
}
