package resource

import (
	"context"
	"log/slog"

	"k8s.io/apimachinery/pkg/labels"
)

// MirrorOptions tune a Mirror. The zero value works.
type MirrorOptions[T Object] struct {
	// Handler is told each change of the mirror, one at a time, in order. It must
	// return at once (to queue a key is what it is for) and not call the mirror.
	// Bookmark is told once the mirror is complete after each new beginning.
	Handler func(Event[T])
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

// Mirror is a copy in memory of a remote kind. It is fed by the kind's Watch and
// by every response of its Client: the newest version wins, so nobody acts on a
// state older than their own write.
type Mirror[T Object] struct {
	client *Client[T]
}

// NewMirror returns a mirror of what client can see. Nothing happens until Run.
func NewMirror[T Object](client *Client[T], opts MirrorOptions[T]) *Mirror[T] { panic("soon") }

// Run keeps the mirror until ctx ends, and returns nil then. It reconnects with
// back-off and jitter, resuming where it was, and begins anew where it can't:
// objects that are gone by then are told as Deleted. Where another store answers
// (see Store), everything is forgotten and nothing is told as Deleted: a store
// that was lost says nothing about its objects.
func (m *Mirror[T]) Run(ctx context.Context) error { panic("soon") }

// WaitSynced blocks until the mirror is first complete, or ctx ends.
func (m *Mirror[T]) WaitSynced(ctx context.Context) error { panic("soon") }

// Synced reports whether the mirror was complete once.
func (m *Mirror[T]) Synced() bool { panic("soon") }

// Client returns a client whose responses feed the mirror.
func (m *Mirror[T]) Client() *Client[T] { return m.client }

// Get returns a copy of an object, false where the mirror has none.
func (m *Mirror[T]) Get(key Key) (T, bool) { panic("soon") }

// List returns copies of the objects of a namespace (empty: all) that selector
// selects (nil: all), in the byte order of namespace/name.
func (m *Mirror[T]) List(namespace string, selector labels.Selector) []T { panic("soon") }

// Store is the identity of the store that the mirror shows, empty before the
// first answer.
func (m *Mirror[T]) Store() string { panic("soon") }

// Observe feeds obj, a response that came by another way than Client.
func (m *Mirror[T]) Observe(obj T) { panic("soon") }
