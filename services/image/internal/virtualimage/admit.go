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

const resourceGroup = "virtualization.deckhouse.io"

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
	found, err := r.Intake.Current(ctx, r.wish(old))
	if err != nil {
		return err
	}
	if found == nil {
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
func supported(spec *imagev1.VirtualImageSpec) *fault.Fault {
	if storage := spec.GetStorage(); storage != imagev1.ImageStorage_ContainerRegistry {
		return fault.New(fault.Invalid, intake.ReasonNotSupported,
			"spec.storage %s is not supported yet: use ContainerRegistry", storage).
			WithField(pathStorage, intake.ReasonNotSupported, storage.String()+" is not supported yet")
	}
	if ref := spec.GetDataSource().GetObjectRef(); ref != nil && plurals[ref.GetKind()] == "" {
		return fault.New(fault.Invalid, intake.ReasonNotSupported,
			"spec.dataSource.objectRef.kind %s is not supported yet: use VirtualImage or ClusterVirtualImage", ref.GetKind()).
			WithField(pathSource, intake.ReasonNotSupported, ref.GetKind().String()+" is not supported yet")
	}
	return nil
}

// plurals are the kinds that images are made from, as rights name them.
var plurals = map[imagev1.ObjectRefKind_Value]string{
	imagev1.ObjectRefKind_VirtualImage:        "virtualimages",
	imagev1.ObjectRefKind_ClusterVirtualImage: "clustervirtualimages",
}

// mayName refuses an image that names what its author may not read: a Secret, or
// an object of a namespace that the image itself isn't in.
func (r *Reconciler[T]) mayName(ctx context.Context, image T) error {
	source, namespace := r.Kind.spec(image).GetDataSource(), r.Kind.namespace(image)
	right := auth.Attributes{Verb: "get", Namespace: namespace}
	if secret := source.GetContainerImage().GetImagePullSecret(); secret != nil {
		if namespace == "" || secret.GetName() == "" {
			return fault.Refuse("spec.dataSource.containerImage.imagePullSecret", "FieldValueRequired", "a Secret is named by its name and namespace")
		}
		right.Resource, right.Name = "secrets", secret.GetName()
		return auth.RequireOfCaller(ctx, right)
	}
	ref := source.GetObjectRef()
	if ref == nil || namespace == image.GetMetadata().GetNamespace() || ref.GetKind() == imagev1.ObjectRefKind_ClusterVirtualImage {
		return nil
	}
	right.Group, right.Resource, right.Name = resourceGroup, plurals[ref.GetKind()], ref.GetName()
	if right.Resource == "" {
		return nil // refused by name, later
	}
	return auth.RequireOfCaller(ctx, right)
}
