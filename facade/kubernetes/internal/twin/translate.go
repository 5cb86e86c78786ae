package twin

import (
	"maps"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/manifest"
)

// objectOf reads the service's form of a custom resource: names, labels,
// annotations, owners as they stand, and spec. What Kubernetes writes (UID,
// version, finalizers) and status stay behind.
func objectOf(k *kind.Kind, cr *unstructured.Unstructured) (resource.Object, error) {
	object := resource.New[resource.Object](k)
	content := map[string]any{"apiVersion": k.APIVersion(), "kind": k.Name}
	if spec, found := cr.Object["spec"]; found {
		content["spec"] = spec
	}
	// A newer schema's fields are in the API server's store, but mean nothing here.
	content = manifest.DropUnknown(content, object)
	if err := manifest.Decode(content, object); err != nil {
		return nil, err
	}
	meta := &metav1.ObjectMeta{
		Name:        cr.GetName(),
		Namespace:   cr.GetNamespace(),
		Labels:      maps.Clone(cr.GetLabels()),
		Annotations: public(cr.GetAnnotations()),
	}
	for _, owner := range cr.GetOwnerReferences() {
		meta.OwnerReferences = append(meta.OwnerReferences, &metav1.OwnerReference{
			ApiVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, Uid: string(owner.UID),
			Controller: owner.Controller, BlockOwnerDeletion: owner.BlockOwnerDeletion,
		})
	}
	setMetadata(k, object, meta)
	return object, nil
}

func setMetadata(k *kind.Kind, object resource.Object, meta *metav1.ObjectMeta) {
	message := object.ProtoReflect()
	field := message.Mutable(k.Metadata).Message().Interface()
	proto.Reset(field)
	proto.Merge(field, meta)
}

// wish writes into a custom resource what a service's object wishes: spec,
// labels, annotations. Private annotations stay as they are.
func wish(cr *unstructured.Unstructured, object resource.Object) error {
	content, err := manifest.Encode(object)
	if err != nil {
		return err
	}
	delete(cr.Object, "spec")
	if spec, found := content["spec"]; found {
		cr.Object["spec"] = spec
	}
	meta := object.GetMetadata()
	cr.SetLabels(maps.Clone(meta.GetLabels()))
	annotations := public(meta.GetAnnotations())
	for key, value := range cr.GetAnnotations() {
		if isPrivate(key) {
			annotations[key] = value
		}
	}
	cr.SetAnnotations(annotations)
	return nil
}

func public(annotations map[string]string) map[string]string {
	result := map[string]string{}
	for key, value := range annotations {
		if !isPrivate(key) {
			result[key] = value
		}
	}
	return result
}

// Converter returns the function that reads the service's form of a kind's
// custom resources.
func Converter(k *kind.Kind) func(*unstructured.Unstructured) (resource.Object, error) {
	return func(cr *unstructured.Unstructured) (resource.Object, error) { return objectOf(k, cr) }
}
