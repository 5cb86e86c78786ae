package resource

import (
	"context"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
)

// MirrorOptions tune a Mirror. The zero value works.
type MirrorOptions[T Object] struct {
	// Handler is told each change of the mirror, one at a time, in order. It must
	// return at once (to queue a key is what it is for) and must not call the
	// mirror or its client. The object is shared: it must not be changed. Bookmark
	// is told when the mirror is complete after each new beginning.
	Handler func(Event[T])
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

// Mirror is a copy in memory of a remote kind. It is fed by the kind's Watch and
// by every response of its Client: the newest version wins, so nobody acts on a
// state older than their own write.
type Mirror[T Object] struct {
	client  *Client[T] // feeds the mirror
	handler func(Event[T])
	log     *slog.Logger

	mu      sync.Mutex
	objects map[Key]T
	held    held
	// deleted holds the versions of what was deleted by a response, until the
	// watch has told it: older news must not bring it back.
	deleted map[Key]string
	store   string
	// version is where to resume from; empty begins anew.
	version string
	// whole is false until everything that the store has was told.
	whole bool

	synced   chan struct{}
	syncOnce sync.Once
}

// NewMirror returns a mirror of what client can see. Nothing happens until Run.
func NewMirror[T Object](client *Client[T], opts MirrorOptions[T]) *Mirror[T] {
	m := &Mirror[T]{
		handler: opts.Handler, log: opts.Logger,
		objects: map[Key]T{}, held: held{}, deleted: map[Key]string{},
		synced: make(chan struct{}),
	}
	if m.handler == nil {
		m.handler = func(Event[T]) {}
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	m.log = m.log.With(slog.String("kind", client.kind.Name))
	feeding := *client
	feeding.observe = m.Observe
	m.client = &feeding
	return m
}

// Client returns a client whose responses feed the mirror.
func (m *Mirror[T]) Client() *Client[T] { return m.client }

// WaitSynced blocks until the mirror is first complete, or ctx ends.
func (m *Mirror[T]) WaitSynced(ctx context.Context) error {
	select {
	case <-m.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Synced reports whether the mirror shows all that its store has: not before it
// was first complete, and not between meeting another store and knowing it.
func (m *Mirror[T]) Synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.whole
}

// Get returns a copy of an object, false where the mirror has none.
func (m *Mirror[T]) Get(key Key) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	obj, ok := m.objects[key]
	if !ok {
		return obj, false
	}
	return Clone(obj), true
}

// List returns copies of the objects of a namespace (empty: all) that selector
// selects (nil: all), in the byte order of namespace/name.
func (m *Mirror[T]) List(namespace string, selector labels.Selector) []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []T
	for _, key := range sortedKeys(m.objects) {
		if obj := m.objects[key]; (namespace == "" || key.Namespace == namespace) && matches(selector, obj) {
			all = append(all, Clone(obj))
		}
	}
	return all
}

// Store is the identity of the store that the mirror shows, empty before the
// first answer.
func (m *Mirror[T]) Store() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.store
}

// Observe feeds obj, a response that came by another way than Client. The mirror
// keeps it: the caller must not change it any more.
func (m *Mirror[T]) Observe(obj T) {
	if obj.GetMetadata().GetResourceVersion() == "" {
		return // no state of an object: the answer to deleting a missing one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take(obj)
}
