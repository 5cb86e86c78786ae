package resource

import (
	"context"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	k8smetav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/manifest"
	"orlop.dev/kit/resource/schema"
)

// judge says what callers may write: first metadata's rules, then the schema's,
// then the kind's own. It fills in what they may leave out.
type judge[T Object] struct {
	kind   *kind.Kind
	schema *schema.Schema
	fill   func(ctx context.Context, old, new T) error
	admit  func(ctx context.Context, old, new T) error
}

// creation returns obj with its defaults, or a fault.
func (j *judge[T]) creation(ctx context.Context, obj T) (T, error) {
	var none T
	return j.written(ctx, none, obj, false)
}

// change returns wanted with its defaults, or a fault if old can't become it.
func (j *judge[T]) change(ctx context.Context, old, wanted T) (T, error) {
	return j.written(ctx, old, wanted, true)
}

func (j *judge[T]) deletion(ctx context.Context, old T) error {
	var none T
	if j.admit == nil {
		return nil
	}
	return j.admit(ctx, old, none)
}

func (j *judge[T]) written(ctx context.Context, old, obj T, update bool) (T, error) {
	var none T
	if err := schema.Refusal(j.metadata(obj)); err != nil {
		return none, err
	}
	if j.fill != nil {
		if err := j.fill(ctx, old, obj); err != nil {
			return none, err
		}
	}
	obj, err := j.bySchema(old, obj, update)
	if err != nil {
		return none, err
	}
	if j.admit == nil {
		return obj, nil
	}
	return obj, j.admit(ctx, old, obj)
}

// bySchema judges obj without its status, which is the service's to write.
func (j *judge[T]) bySchema(old, obj T, update bool) (T, error) {
	var none T
	if j.schema == nil {
		return obj, nil
	}
	after, err := j.manifest(obj)
	if err != nil {
		return none, err
	}
	var before map[string]any
	if update {
		if before, err = j.manifest(old); err != nil {
			return none, err
		}
		j.schema.Default(before) // it may be older than a default
	}
	j.schema.Default(after)
	if err := j.schema.Validate(after, before); err != nil {
		return none, err
	}
	filled := New[T](j.kind)
	if err := manifest.Decode(after, filled); err != nil {
		return none, err
	}
	setField(j.kind.Status, filled, obj)
	return filled, nil
}

func (j *judge[T]) manifest(obj T) (map[string]any, error) {
	m, err := manifest.Encode(obj)
	delete(m, "status")
	return m, err
}

// metadata applies Kubernetes' own rules for names, labels, annotations, owners
// and finalizers.
func (j *judge[T]) metadata(obj T) field.ErrorList {
	m := obj.GetMetadata()
	return apivalidation.ValidateObjectMeta(&k8smetav1.ObjectMeta{
		Name: m.GetName(), GenerateName: m.GetGenerateName(), Namespace: m.GetNamespace(),
		Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
		OwnerReferences: owners(m.GetOwnerReferences()), Finalizers: m.GetFinalizers(),
	}, j.kind.Namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
}

func owners(refs []*metav1.OwnerReference) []k8smetav1.OwnerReference {
	all := make([]k8smetav1.OwnerReference, len(refs))
	for i, r := range refs {
		all[i] = k8smetav1.OwnerReference{
			APIVersion: r.GetApiVersion(), Kind: r.GetKind(), Name: r.GetName(), UID: types.UID(r.GetUid()),
			Controller: r.Controller, BlockOwnerDeletion: r.BlockOwnerDeletion,
		}
	}
	return all
}
