package twin

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
)

// errOwnerAbsent is the error of an object whose owner is not on the other
// side yet. Owners come first.
var errOwnerAbsent = errors.New("the owner is not there yet")

// Mirrors are the services' objects of each kind that the facade knows.
type Mirrors map[schema.GroupVersionKind]*resource.Mirror[resource.Object]

// ownersForService translates the owners of a custom resource: each side has
// UIDs of its own. Owners of kinds that no service has stay as they are.
func (m Mirrors) ownersForService(object resource.Object) error {
	meta := object.GetMetadata()
	for _, owner := range meta.GetOwnerReferences() {
		mirror, known := m[gvkOf(owner)]
		if !known {
			continue
		}
		twin, found := mirror.Get(ownerKey(mirror, meta.GetNamespace(), owner))
		if !found {
			return fmt.Errorf("%w: %s", errOwnerAbsent, ownerName(owner))
		}
		owner.Uid = twin.GetMetadata().GetUid()
	}
	return nil
}

// ownersForKubernetes translates the owners of a service's object.
func (m Mirrors) ownersForKubernetes(ctx context.Context, c client.Reader, object resource.Object) ([]kubemeta.OwnerReference, error) {
	meta := object.GetMetadata()
	var owners []kubemeta.OwnerReference
	for _, owner := range meta.GetOwnerReferences() {
		reference := kubemeta.OwnerReference{
			APIVersion: owner.GetApiVersion(), Kind: owner.GetKind(), Name: owner.GetName(), UID: types.UID(owner.GetUid()),
			Controller: owner.Controller, BlockOwnerDeletion: owner.BlockOwnerDeletion,
		}
		if mirror, known := m[gvkOf(owner)]; known {
			twin := new(unstructured.Unstructured)
			twin.SetGroupVersionKind(gvkOf(owner))
			key := ownerKey(mirror, meta.GetNamespace(), owner)
			err := c.Get(ctx, client.ObjectKey(key), twin)
			if apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("%w: %s", errOwnerAbsent, ownerName(owner))
			}
			if err != nil {
				return nil, err
			}
			reference.UID = twin.GetUID()
		}
		owners = append(owners, reference)
	}
	return owners, nil
}

func gvkOf(owner *metav1.OwnerReference) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(owner.GetApiVersion(), owner.GetKind())
}

func ownerKey(mirror *resource.Mirror[resource.Object], namespace string, owner *metav1.OwnerReference) resource.Key {
	if !mirror.Client().Kind().Namespaced {
		namespace = ""
	}
	return resource.Key{Namespace: namespace, Name: owner.GetName()}
}
