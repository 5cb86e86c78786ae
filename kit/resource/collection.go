package resource

import (
	"context"
	"iter"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/kind"
)

// Collection is the objects of one kind in etcd, served from a watched copy in
// memory. What it returns is the caller's own copy. A write returns when it is
// durable and the copy shows it, so a read after a write sees it.
//
// All methods but Run may be called concurrently. Before the copy is first
// complete they fail with class Transient; see WaitSynced.
type Collection[T Object] struct {
	kind *kind.Kind
}

// NewCollection returns the collection of kind k under prefix ("/orlop/disk").
// Collections of several kinds can share a prefix, and with it a store identity.
// Nothing is read until Run.
func NewCollection[T Object](client *clientv3.Client, prefix string, k *kind.Kind, opts Options) (*Collection[T], error) {
	panic("soon")
}

// Kind returns the kind of the objects.
func (c *Collection[T]) Kind() *kind.Kind { return c.kind }

// Run keeps the copy until ctx ends, and returns nil then. It survives the loss
// of etcd: reads go on from the copy as it was, writes fail with class Transient.
func (c *Collection[T]) Run(ctx context.Context) error { panic("soon") }

// WaitSynced blocks until the copy is first complete, or ctx ends.
func (c *Collection[T]) WaitSynced(ctx context.Context) error { panic("soon") }

// StoreID is a random word that was written once under the prefix: another one
// means that the store was lost and begun again. Empty before the copy is synced.
func (c *Collection[T]) StoreID() string { panic("soon") }

// Get returns an object, or a fault of class NotFound.
func (c *Collection[T]) Get(key Key) (T, error) { panic("soon") }

// List returns a page of objects in the byte order of namespace/name. A later
// page whose state is no longer kept fails with reason ReasonTooOld.
func (c *Collection[T]) List(ctx context.Context, opts ListOptions) (Page[T], error) { panic("soon") }

// All returns all objects of a namespace (empty: of all) that selector selects
// (nil: all), as the copy has them now. It is for a service's own loops.
func (c *Collection[T]) All(namespace string, selector labels.Selector) ([]T, error) { panic("soon") }

// Create stores a new object and returns it as stored. The caller gives name or
// generateName, namespace, labels, annotations, owners, finalizers, spec and, if
// any, status; everything else in metadata is given here. Class Exists if the
// name is taken. obj is not changed.
func (c *Collection[T]) Create(ctx context.Context, obj T) (T, error) { panic("soon") }

// Update replaces spec, labels, annotations, owners and finalizers of a stored
// object by obj's, and leaves its status. Where obj has a resourceVersion or a
// UID they must be the stored ones, else the class is Stale. Nothing is written
// where nothing changes.
func (c *Collection[T]) Update(ctx context.Context, obj T) (T, error) { panic("soon") }

// Mutate changes an object by change, which may run several times, each time on
// the newest state. What identifies the object, its holders and its deletion stay
// as they were whatever change does to them; generation grows if spec changed.
// Nothing is written where nothing changed. An error of change is returned as it is.
func (c *Collection[T]) Mutate(ctx context.Context, key Key, change func(T) error) (T, error) {
	panic("soon")
}

// UpdateStatus replaces the status of the object with that UID (empty: whichever
// has the name). Class NotFound if it is gone, another object of its name
// included. Nothing is written where nothing changed.
func (c *Collection[T]) UpdateStatus(ctx context.Context, key Key, uid string, status proto.Message) (T, error) {
	panic("soon")
}

// Delete asks for an object to go. It goes at once if it has no finalizers and no
// active holders; otherwise it stays, Terminating, until the last is removed.
// Returns the object as it is then, with its deletionTimestamp; see Gone.
// Idempotent while the object is there, NotFound after.
func (c *Collection[T]) Delete(ctx context.Context, key Key, pre Preconditions) (T, error) {
	panic("soon")
}

// RemoveFinalizer takes a finalizer away. A terminating object goes with the last
// of them, unless it is held. Idempotent; a missing object is no error and
// returns the zero T.
func (c *Collection[T]) RemoveFinalizer(ctx context.Context, key Key, finalizer string) (T, error) {
	panic("soon")
}

// AddHolder writes down that holder uses the object, replacing what is known of
// the same holder (by UID). admit sees the object as it is before, inside the
// compare-and-swap: of two holders that exclude each other one gets in. A
// terminating object takes no new holders.
func (c *Collection[T]) AddHolder(ctx context.Context, key Key, holder *metav1.Holder, admit func(T) error) (T, error) {
	panic("soon")
}

// RemoveHolder forgets a holder. A terminating object goes with its last active
// holder, unless it has finalizers. Idempotent; a missing object is no error and
// returns the zero T.
func (c *Collection[T]) RemoveHolder(ctx context.Context, key Key, holderUID string) (T, error) {
	panic("soon")
}

// Watch yields the changes of the collection in the order they happened, each
// once, until ctx ends or the caller stops; it blocks in between. The last thing
// it yields may be an error: reason ReasonTooOld if the start is no longer known
// or the caller fell too far behind (then watch again from nothing), or the end
// of ctx.
func (c *Collection[T]) Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event[T], error] {
	panic("soon")
}
