package resource

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
)

// MethodOptions say what a kind adds to the standard methods.
type MethodOptions[T Object] struct {
	Collection *Collection[T]
	// Schema judges what callers write; nil lets everything pass.
	Schema *schema.Schema
	// Default fills in what a caller left out and the schema can't know, or refuses
	// it; nil for nothing. old is the zero T at a creation.
	Default func(ctx context.Context, old, new T) error
	// Admit refuses, by an error, what the schema can't know. old is the zero T at
	// a creation, new at a deletion. It runs for validate_only too and must not
	// change anything; it may run several times for one request.
	Admit func(ctx context.Context, old, new T) error
	// Holding, where given, serves Claim and Release. Without it the service's
	// own implementation does.
	Holding *Holding[T]
}

// Holding is what a kind adds to Claim.
type Holding[T Object] struct {
	// Admit refuses a holder; nil admits all. object is as it is before the claim,
	// holders included, and must not be changed. It runs within the
	// compare-and-swap, so it must be quick.
	Admit func(ctx context.Context, object T, holder *metav1.Holder) error
	// Answer makes Claim's response, after the claim was written.
	Answer func(ctx context.Context, object T, holder *metav1.Holder) (proto.Message, error)
}

// Methods are the standard methods of a kind's service: Create, Get, List,
// Update, Delete, Watch, and Claim and Release where Holding is given. Register
// serves them.
type Methods[T Object] struct {
	kind       *kind.Kind
	collection *Collection[T]
	judge      judge[T]
	holding    *Holding[T]
}

// NewMethods returns the standard methods over a collection. It fails if the
// kind's messages don't have what the methods need.
func NewMethods[T Object](opts MethodOptions[T]) (*Methods[T], error) {
	if opts.Collection == nil {
		return nil, errors.New("methods: a collection is required")
	}
	if opts.Holding != nil && opts.Holding.Answer == nil {
		return nil, errors.New("methods: Holding.Answer is required")
	}
	k := opts.Collection.Kind()
	if err := checkMessages(k); err != nil {
		return nil, err
	}
	return &Methods[T]{
		kind:       k,
		collection: opts.Collection,
		judge:      judge[T]{kind: k, schema: opts.Schema, fill: opts.Default, admit: opts.Admit},
		holding:    opts.Holding,
	}, nil
}

// unary returns the methods with one response, by verb.
func (m *Methods[T]) unary() map[kind.Verb]unaryFunc {
	all := map[kind.Verb]unaryFunc{
		kind.Create: m.create, kind.Get: m.get, kind.List: m.list,
		kind.Update: m.update, kind.Delete: m.delete,
	}
	if m.holding != nil {
		all[kind.Claim], all[kind.Release] = m.claim, m.release
	}
	return all
}

// target returns the key of the one object that req speaks of.
func (m *Methods[T]) target(req proto.Message) (Key, error) {
	t, err := m.kind.Target(req)
	switch {
	case err != nil:
		return Key{}, err
	case m.kind.Namespaced && t.Namespace == "":
		return Key{}, fault.Refuse("metadata.namespace", "FieldValueRequired", "Required value")
	}
	return Key(t), nil
}

// named is target for requests that must give a name.
func (m *Methods[T]) named(req proto.Message) (Key, error) {
	key, err := m.target(req)
	if err == nil && key.Name == "" {
		err = fault.Refuse("metadata.name", "FieldValueRequired", "Required value")
	}
	return key, err
}

func (m *Methods[T]) get(_ context.Context, req proto.Message) (proto.Message, error) {
	key, err := m.named(req)
	if err != nil {
		return nil, err
	}
	return m.collection.shared(key)
}

func (m *Methods[T]) list(ctx context.Context, req proto.Message) (proto.Message, error) {
	asked, ok := req.(*metav1.ListRequest)
	if !ok {
		return nil, unexpected(req)
	}
	t, err := m.kind.Target(req)
	if err != nil {
		return nil, err
	}
	selector, err := parseSelector(asked.GetLabelSelector())
	if err != nil {
		return nil, err
	}
	page, err := m.collection.sharedList(ctx, ListOptions{
		Namespace: t.Namespace, Selector: selector,
		PageSize: int(asked.GetPageSize()), PageToken: asked.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	return m.response(m.kind.Methods.List, func(resp protoreflect.Message) { writePage(resp, page) })
}

// watch serves Watch: send is called until it fails or ctx ends.
func (m *Methods[T]) watch(ctx context.Context, req proto.Message, send func(proto.Message) error) error {
	asked, ok := req.(*metav1.WatchRequest)
	if !ok {
		return unexpected(req)
	}
	t, err := m.kind.Target(req)
	if err != nil {
		return err
	}
	selector, err := parseSelector(asked.GetLabelSelector())
	if err != nil {
		return err
	}
	opts := WatchOptions{Namespace: t.Namespace, Selector: selector, ResourceVersion: asked.GetResourceVersion()}
	for event, err := range m.collection.sharedWatch(ctx, opts) {
		if err != nil {
			return err
		}
		resp, err := m.response(m.kind.Methods.Watch, func(resp protoreflect.Message) { writeEvent(resp, event) })
		if err != nil {
			return err
		}
		if err := send(resp); err != nil {
			return err
		}
	}
	return nil
}

// response returns the response message of a method, as fill makes it.
func (m *Methods[T]) response(method protoreflect.MethodDescriptor, fill func(protoreflect.Message)) (proto.Message, error) {
	t, err := typeOf(method.Output())
	if err != nil {
		return nil, err
	}
	resp := t.New()
	fill(resp)
	return resp.Interface(), nil
}

// parseSelector reads Kubernetes' selector syntax; empty is nil, which selects all.
func parseSelector(text string) (labels.Selector, error) {
	if text == "" {
		return nil, nil
	}
	s, err := labels.Parse(text)
	if err != nil {
		return nil, fault.Refuse("label_selector", "FieldValueInvalid", "%s", err)
	}
	return s, nil
}

func unexpected(req proto.Message) error {
	return fault.New(fault.Internal, fault.ReasonInternal, "unexpected request %T", req)
}
