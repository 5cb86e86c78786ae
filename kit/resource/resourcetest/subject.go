// Package resourcetest is the conformance suite of stores of objects: whatever
// serves a kind, in this process or behind a connection, passes it.
package resourcetest

import (
	"context"
	"iter"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
)

// Subject is what is tested: an empty store of one namespaced kind.
type Subject[T resource.Object] struct {
	// New returns a valid object, not yet stored.
	New func(metadata *metav1.ObjectMeta) T
	// ChangeSpec makes another, valid spec, each time a different one.
	ChangeSpec func(T)

	Get    func(context.Context, resource.Key) (T, error)
	List   func(context.Context, resource.ListOptions) (resource.Page[T], error)
	Create func(context.Context, T) (T, error)
	Update func(context.Context, T) (T, error)
	Delete func(context.Context, resource.Key, resource.Preconditions) (T, error)
	Watch  func(context.Context, resource.WatchOptions) iter.Seq2[resource.Event[T], error]
}

// OfCollection tests a collection as it is.
func OfCollection[T resource.Object](c *resource.Collection[T]) Subject[T] {
	return Subject[T]{
		Get:    func(_ context.Context, key resource.Key) (T, error) { return c.Get(key) },
		List:   c.List,
		Create: c.Create,
		Update: c.Update,
		Delete: c.Delete,
		Watch:  c.Watch,
	}
}

// OfClient tests what is at the other end of a client.
func OfClient[T resource.Object](c *resource.Client[T]) Subject[T] {
	return Subject[T]{
		Get:  c.Get,
		List: c.List,
		Create: func(ctx context.Context, obj T) (T, error) {
			return c.Create(ctx, obj, resource.WriteOptions{})
		},
		Update: func(ctx context.Context, obj T) (T, error) {
			return c.Update(ctx, obj, resource.UpdateOptions{})
		},
		Delete: func(ctx context.Context, key resource.Key, pre resource.Preconditions) (T, error) {
			return c.Delete(ctx, key, resource.DeleteOptions{Preconditions: pre})
		},
		Watch: c.Watch,
	}
}
