package resource

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/kind"
)

// Client calls the standard methods of a kind's service. With T = Object it
// serves any kind. Errors are faults.
type Client[T Object] struct {
	kind *kind.Kind
}

// WriteOptions go with a write.
type WriteOptions struct {
	// ValidateOnly checks and answers as if it were done, and stores nothing.
	ValidateOnly bool
	// RequestID is a UUID. A repeated request gets the first one's answer.
	RequestID string
}

// UpdateOptions go with an Update.
type UpdateOptions struct {
	WriteOptions
	// Mask names what to take from the object, by JSON or proto path: "spec",
	// "metadata.labels". All where it is empty.
	Mask []string
	// AllowMissing creates the object where it is missing.
	AllowMissing bool
}

// DeleteOptions go with a Delete.
type DeleteOptions struct {
	WriteOptions
	Preconditions
	// AllowMissing makes a missing object no error.
	AllowMissing bool
}

// NewClient returns a client of kind k's service over conn. It fails if no
// service of k is linked in.
func NewClient[T Object](conn grpc.ClientConnInterface, k *kind.Kind) (*Client[T], error) {
	panic("soon")
}

// Kind returns the kind of the objects.
func (c *Client[T]) Kind() *kind.Kind { return c.kind }

// Get returns an object, or a fault of class NotFound.
func (c *Client[T]) Get(ctx context.Context, key Key) (T, error) { panic("soon") }

// List returns one page.
func (c *Client[T]) List(ctx context.Context, opts ListOptions) (Page[T], error) { panic("soon") }

// All returns all pages from opts.PageToken on as one.
func (c *Client[T]) All(ctx context.Context, opts ListOptions) (Page[T], error) { panic("soon") }

// Create creates an object.
func (c *Client[T]) Create(ctx context.Context, obj T, opts WriteOptions) (T, error) { panic("soon") }

// Update changes an object. A resourceVersion in it must be the present one.
func (c *Client[T]) Update(ctx context.Context, obj T, opts UpdateOptions) (T, error) { panic("soon") }

// Delete asks for an object to go; see Gone.
func (c *Client[T]) Delete(ctx context.Context, key Key, opts DeleteOptions) (T, error) {
	panic("soon")
}

// Watch yields changes until ctx ends, the caller stops or the stream fails, as
// Collection.Watch does. It does not reconnect; Mirror does.
func (c *Client[T]) Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event[T], error] {
	panic("soon")
}

// Claim says that holder uses the object, and reads the answer of the kind's
// service into answer. Idempotent by the holder's UID.
func (c *Client[T]) Claim(ctx context.Context, key Key, holder *metav1.Holder, answer proto.Message) error {
	panic("soon")
}

// Release ends a claim. Idempotent.
func (c *Client[T]) Release(ctx context.Context, key Key, holderUID string) error { panic("soon") }
