package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/labels"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// defaultHistoryEvents bounds the history. A change in it holds on to two states
// of an object, some kilobytes.
const defaultHistoryEvents = 4096

// Collection is the objects of one kind in etcd, served from a watched copy in
// memory. What it returns is the caller's own copy. A write returns when it is
// durable and the copy shows it, so a read after a write sees it.
//
// All methods but Run may be called concurrently. Before the copy is first
// complete they fail with class Transient; see WaitSynced.
type Collection[T Object] struct {
	kind    *kind.Kind
	store   store
	opts    Options
	replica *replica[T]
	leases  leases
	now     func() time.Time
	log     *slog.Logger
}

// NewCollection returns the collection of kind k under prefix ("/orlop/disk").
// Collections of several kinds can share a prefix, and with it a store identity.
// Nothing is read until Run. It fails if T is not the message of k.
func NewCollection[T Object](client *clientv3.Client, prefix string, k *kind.Kind, opts Options) (*Collection[T], error) {
	if client == nil || prefix == "" {
		return nil, errors.New("collection: a client and a prefix are required")
	}
	if err := checkType[T](k); err != nil {
		return nil, err
	}
	c := &Collection[T]{
		kind:    k,
		store:   newStore(client, prefix, k.Plural),
		opts:    opts,
		replica: newReplica[T](cmp.Or(opts.HistoryEvents, defaultHistoryEvents)),
		leases:  leases{client: client},
		now:     opts.Now,
		log:     opts.Logger,
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.log = c.log.With(slog.String("kind", k.Name))
	return c, nil
}

// Kind returns the kind of the objects.
func (c *Collection[T]) Kind() *kind.Kind { return c.kind }

// Run keeps the copy until ctx ends, and returns nil then. It survives the loss
// of etcd: reads go on from the copy as it was, writes fail with class Transient.
func (c *Collection[T]) Run(ctx context.Context) error {
	c.feed(ctx)
	return nil
}

// WaitSynced blocks until the copy is first complete, or ctx ends.
func (c *Collection[T]) WaitSynced(ctx context.Context) error {
	select {
	case <-c.replica.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StoreID is a random word that was written once under the prefix: another one
// means that the store was lost and begun again. Empty before the copy is synced.
func (c *Collection[T]) StoreID() string {
	c.replica.mu.RLock()
	defer c.replica.mu.RUnlock()
	return c.replica.store
}

// Get returns an object, or a fault of class NotFound.
func (c *Collection[T]) Get(key Key) (T, error) {
	obj, err := c.shared(key)
	if err != nil {
		return obj, err
	}
	return Clone(obj), nil
}

// shared is Get without the copy: nobody may change what it returns.
func (c *Collection[T]) shared(key Key) (T, error) {
	var none T
	if err := c.replica.ready(); err != nil {
		return none, err
	}
	obj, ok := c.replica.get(key.path())
	if !ok {
		return none, c.notFound(key)
	}
	return obj, nil
}

// All returns all objects of a namespace (empty: of all) that selector selects
// (nil: all), as the copy has them now. It is for a service's own loops.
func (c *Collection[T]) All(namespace string, selector labels.Selector) ([]T, error) {
	if err := c.replica.ready(); err != nil {
		return nil, err
	}
	items, _, _ := c.replica.selected(namespace, selector)
	all := make([]T, len(items))
	for i := range items {
		all[i] = Clone(items[i])
	}
	return all, nil
}

// Each visits the objects of a namespace (empty: of all), as the copy has them
// now. It is All without the copying: nobody may change what it shows. Two sights
// of an object that are the same pointer are of the same state.
func (c *Collection[T]) Each(namespace string, visit func(T)) error {
	if err := c.replica.ready(); err != nil {
		return err
	}
	items, _, _ := c.replica.selected(namespace, nil)
	for _, object := range items {
		visit(object)
	}
	return nil
}

func (c *Collection[T]) notFound(key Key) error {
	return fault.New(fault.NotFound, ReasonNotFound, "%s.%s %q not found", c.kind.Plural, c.kind.Group, key.Name)
}

// checkType fails if an object of k is no T.
func checkType[T Object](k *kind.Kind) error {
	if _, ok := k.Type.Zero().Interface().(T); !ok {
		var t T
		return fmt.Errorf("kind %s is %s, not %T", k, k.Descriptor.FullName(), t)
	}
	return nil
}
