// Package reconcile is the work loop of a service: it brings what is there in
// line with what is wanted, object by object, again and again.
//
// It owns the queue, the waiting after a failure, the writing of status, the
// finalizer, and the election of the one replica that works. It must not know
// what any object means: that is a [Reconciler]'s.
package reconcile

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/resource"
)

// Reconciler takes the next step for one object.
//
// Reconcile compares what obj asks for with what is there, does what can be
// done now without waiting, and returns the status as a projection of what it
// observed. It is idempotent: it may run at any time, and again after a process
// that died in it. It never runs twice at once for the same object. obj is its
// own copy. The class of its error says when it runs again; a status returned
// with an error is written.
type Reconciler[T resource.Object] interface {
	Reconcile(ctx context.Context, obj T) (Result, error)
}

// Func is a function as a Reconciler.
type Func[T resource.Object] func(ctx context.Context, obj T) (Result, error)

// Reconcile implements [Reconciler].
func (f Func[T]) Reconcile(ctx context.Context, obj T) (Result, error) { return f(ctx, obj) }

// Result is what a step came to.
type Result struct {
	// Status is the whole status of the object as observed; nil leaves it as it
	// is. It is not written where nothing changed, and at most once a second
	// where neither phase nor conditions changed.
	Status proto.Message
	// After is when to look again if nothing happens before; 0 is never.
	After time.Duration
	// Finalized says that nothing is left of a terminating object.
	Finalized bool
}

// Store is what a loop needs of a [resource.Collection].
type Store[T resource.Object] interface {
	WaitSynced(ctx context.Context) error
	Get(key resource.Key) (T, error)
	Watch(ctx context.Context, opts resource.WatchOptions) iter.Seq2[resource.Event[T], error]
	UpdateStatus(ctx context.Context, key resource.Key, uid string, status proto.Message) (T, error)
	RemoveFinalizer(ctx context.Context, key resource.Key, finalizer string) (T, error)
}
