package resource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// Client calls the standard methods of a kind's service, which it finds by the
// kind's descriptor. With T = Object it serves any kind. Errors are faults. It
// never retries: its connection or its caller does.
type Client[T Object] struct {
	kind *kind.Kind
	conn grpc.ClientConnInterface
	// observe, if any, is shown each response; see Mirror.
	observe func(T)
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

// NewClient returns a client of kind k's service over conn. It fails if T is not
// the message of k, or no service of k is linked in.
func NewClient[T Object](conn grpc.ClientConnInterface, k *kind.Kind) (*Client[T], error) {
	if err := checkType[T](k); err != nil {
		return nil, err
	}
	if k.Service == "" {
		return nil, fmt.Errorf("kind %s has no service", k)
	}
	if err := checkMessages(k); err != nil {
		return nil, err
	}
	return &Client[T]{kind: k, conn: conn}, nil
}

// Kind returns the kind of the objects.
func (c *Client[T]) Kind() *kind.Kind { return c.kind }

// Get returns an object, or a fault of class NotFound.
func (c *Client[T]) Get(ctx context.Context, key Key) (T, error) {
	return c.one(ctx, kind.Get, &metav1.GetRequest{Namespace: key.Namespace, Name: key.Name})
}

// List returns one page.
func (c *Client[T]) List(ctx context.Context, opts ListOptions) (Page[T], error) {
	req := &metav1.ListRequest{Namespace: opts.Namespace, PageSize: int32(opts.PageSize), PageToken: opts.PageToken}
	if opts.Selector != nil {
		req.LabelSelector = opts.Selector.String()
	}
	resp, err := c.call(ctx, kind.List, req)
	if err != nil {
		return Page[T]{}, err
	}
	return readPage[T](resp.ProtoReflect()), nil
}

// All returns all pages from opts.PageToken on as one.
func (c *Client[T]) All(ctx context.Context, opts ListOptions) (Page[T], error) {
	var all Page[T]
	for {
		page, err := c.List(ctx, opts)
		if err != nil {
			return Page[T]{}, err
		}
		all.Items, all.ResourceVersion = append(all.Items, page.Items...), page.ResourceVersion
		if page.NextPageToken == "" {
			return all, nil
		}
		opts.PageToken = page.NextPageToken
	}
}

// Create creates an object.
func (c *Client[T]) Create(ctx context.Context, obj T, opts WriteOptions) (T, error) {
	var none T
	req, err := c.request(kind.Create)
	if err != nil {
		return none, err
	}
	set(req, fieldNamespace, obj.GetMetadata().GetNamespace())
	setObject(req, c.kind, obj)
	opts.write(req)
	return c.one(ctx, kind.Create, req.Interface())
}

// Update changes an object. A resourceVersion or a UID in it must be the present one.
func (c *Client[T]) Update(ctx context.Context, obj T, opts UpdateOptions) (T, error) {
	var none T
	req, err := c.request(kind.Update)
	if err != nil {
		return none, err
	}
	set(req, fieldNamespace, obj.GetMetadata().GetNamespace())
	set(req, fieldName, obj.GetMetadata().GetName())
	setObject(req, c.kind, obj)
	opts.write(req)
	set(req, fieldAllowMissing, opts.AllowMissing)
	if len(opts.Mask) > 0 {
		set(req, fieldUpdateMask, (&fieldmaskpb.FieldMask{Paths: opts.Mask}).ProtoReflect())
	}
	return c.one(ctx, kind.Update, req.Interface())
}

// Delete asks for an object to go; see Gone.
func (c *Client[T]) Delete(ctx context.Context, key Key, opts DeleteOptions) (T, error) {
	return c.one(ctx, kind.Delete, &metav1.DeleteRequest{
		Namespace: key.Namespace, Name: key.Name,
		Uid: opts.UID, Etag: opts.ResourceVersion, AllowMissing: opts.AllowMissing,
		ValidateOnly: opts.ValidateOnly, RequestId: opts.RequestID,
	})
}

// Watch yields changes until ctx ends, the caller stops or the stream fails, as
// Collection.Watch does. It does not reconnect; Mirror does.
func (c *Client[T]) Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream when the caller stops
		err := c.stream(ctx, opts, func(e Event[T]) bool { return yield(e, nil) })
		if err != nil {
			yield(Event[T]{}, fault.FromStatus(err))
		}
	}
}

// stream reads a watch until it fails; nil means that tell had enough.
func (c *Client[T]) stream(ctx context.Context, opts WatchOptions, tell func(Event[T]) bool) error {
	method := c.kind.Methods.Watch
	if method == nil {
		return c.missing(kind.Watch)
	}
	output, err := typeOf(method.Output())
	if err != nil {
		return err
	}
	req := &metav1.WatchRequest{Namespace: opts.Namespace, ResourceVersion: opts.ResourceVersion}
	if opts.Selector != nil {
		req.LabelSelector = opts.Selector.String()
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, kind.Path(method))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return err // io.EOF: RecvMsg has the reason
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		resp := output.New()
		if err := stream.RecvMsg(resp.Interface()); err != nil {
			return err
		}
		if !tell(readEvent[T](resp)) {
			return nil
		}
	}
}

// Claim says that holder uses the object, and reads the answer of the kind's
// service into answer. Idempotent by the holder's UID.
func (c *Client[T]) Claim(ctx context.Context, key Key, holder *metav1.Holder, answer proto.Message) error {
	method := c.kind.Methods.Claim
	if method == nil {
		return c.missing(kind.Claim)
	}
	req := &metav1.ClaimRequest{Namespace: key.Namespace, Name: key.Name, Holder: holder}
	return fault.FromStatus(c.conn.Invoke(ctx, kind.Path(method), req, answer))
}

// Release ends a claim. Idempotent.
func (c *Client[T]) Release(ctx context.Context, key Key, holderUID string) error {
	_, err := c.call(ctx, kind.Release, &metav1.ReleaseRequest{Namespace: key.Namespace, Name: key.Name, HolderUid: holderUID})
	return err
}

// one calls a method that returns the object.
func (c *Client[T]) one(ctx context.Context, v kind.Verb, req proto.Message) (T, error) {
	var none T
	resp, err := c.call(ctx, v, req)
	if err != nil {
		return none, err
	}
	obj := resp.(T)
	if c.observe != nil && !flagOf(req.ProtoReflect(), fieldValidateOnly) {
		c.observe(Clone(obj))
	}
	return obj, nil
}

func (c *Client[T]) call(ctx context.Context, v kind.Verb, req proto.Message) (proto.Message, error) {
	method := c.kind.Methods.Of(v)
	if method == nil {
		return nil, c.missing(v)
	}
	output, err := typeOf(method.Output())
	if err != nil {
		return nil, err
	}
	resp := output.New().Interface()
	if err := c.conn.Invoke(ctx, kind.Path(method), req, resp); err != nil {
		return nil, fault.FromStatus(err)
	}
	return resp, nil
}

// request returns an empty request of a method.
func (c *Client[T]) request(v kind.Verb) (protoreflect.Message, error) {
	method := c.kind.Methods.Of(v)
	if method == nil {
		return nil, c.missing(v)
	}
	input, err := typeOf(method.Input())
	if err != nil {
		return nil, err
	}
	return input.New(), nil
}

func (c *Client[T]) missing(v kind.Verb) error {
	return fault.New(fault.Invalid, "Unimplemented", "%s has no method to %s", c.kind, v)
}

func (o WriteOptions) write(req protoreflect.Message) {
	set(req, fieldValidateOnly, o.ValidateOnly)
	set(req, fieldRequestID, o.RequestID)
}
