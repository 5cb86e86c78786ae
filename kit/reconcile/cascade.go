package reconcile

import (
	"context"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// MirroredAnnotation marks objects that Kubernetes' garbage collector looks
// after, because they have a custom resource.
const MirroredAnnotation = "orlop.dev/mirrored"

// ownerPoll is the safety net under the events of owners.
const ownerPoll = time.Minute

// Owners tells whether an owner is there: the object of that kind and name, in
// the namespace of the dependent or in none, and with the reference's UID unless
// that is empty. An error means that it can't be told, and deletes nothing.
type Owners func(ctx context.Context, namespace string, owner *metav1.OwnerReference) (bool, error)

// Deleter is what a cascade needs of a [resource.Collection].
type Deleter[T resource.Object] interface {
	Delete(ctx context.Context, key resource.Key, pre resource.Preconditions) (T, error)
}

// Cascade returns a reconciler that deletes objects whose controller is gone,
// and leaves all others to next. Objects with the [MirroredAnnotation] are
// Kubernetes' to delete. For it to act at once the service triggers the loop
// when an owner is deleted; without that it acts within a minute.
func Cascade[T resource.Object](d Deleter[T], owners Owners, next Reconciler[T]) Reconciler[T] {
	return Func[T](func(ctx context.Context, obj T) (Result, error) {
		controller := controllerOf(obj)
		if controller == nil || resource.Terminating(obj) {
			return next.Reconcile(ctx, obj)
		}
		there, err := owners(ctx, obj.GetMetadata().GetNamespace(), controller)
		if err == nil && !there {
			return Result{}, deleteOrphan(ctx, d, obj)
		}
		result, nextErr := next.Reconcile(ctx, obj)
		if result.After == 0 || result.After > ownerPoll {
			result.After = ownerPoll
		}
		if nextErr == nil {
			nextErr = err
		}
		return result, nextErr
	})
}

func deleteOrphan[T resource.Object](ctx context.Context, d Deleter[T], obj T) error {
	_, err := d.Delete(ctx, resource.KeyOf(obj), resource.Preconditions{UID: obj.GetMetadata().GetUid()})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// controllerOf returns the owner that the cascade follows, nil if none.
func controllerOf(obj resource.Object) *metav1.OwnerReference {
	if _, mirrored := obj.GetMetadata().GetAnnotations()[MirroredAnnotation]; mirrored {
		return nil
	}
	for _, owner := range obj.GetMetadata().GetOwnerReferences() {
		if owner.GetController() {
			return owner
		}
	}
	return nil
}
