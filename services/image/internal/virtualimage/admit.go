package virtualimage

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
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
		return nil
	}
	before, after := r.Kind.spec(old), r.Kind.spec(image)
	if proto.Equal(before, after) {
		return nil
	}
	if resource.Terminating(old) {
		return fault.Refuse("spec", "FieldValueForbidden", "the image is being deleted and can't be changed")
	}
	found, err := r.current(ctx, old)
	if err != nil || found == nil {
		return err
	}
	path := "spec.dataSource"
	if proto.Equal(before.GetDataSource(), after.GetDataSource()) {
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
		return fault.New(fault.Invalid, reasonNotSupported,
			"spec.storage %s is not supported yet: use ContainerRegistry", storage).
			WithField(pathStorage, reasonNotSupported, storage.String()+" is not supported yet")
	}
	if source := spec.GetDataSource().GetType(); source != imagev1.DataSourceType_HTTP {
		return fault.New(fault.Invalid, reasonNotSupported,
			"spec.dataSource.type %s is not supported yet: use HTTP", source).
			WithField(pathSource, reasonNotSupported, source.String()+" is not supported yet")
	}
	return nil
}
