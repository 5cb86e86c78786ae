package resource

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/schema"
)

// MethodOptions say what a kind adds to the standard methods.
type MethodOptions[T Object] struct {
	Collection *Collection[T]
	// Schema judges what callers write; nil lets everything pass.
	Schema *schema.Schema
	// Admit refuses, by an error, what the schema can't know. old is nil at a
	// creation, new at a deletion. It runs for validate_only too and must not
	// change anything; it may run several times for one request.
	Admit func(ctx context.Context, old, new T) error
	// Holding, where given, serves Claim and Release. Without it the service's
	// own implementation does.
	Holding *Holding[T]
}

// Holding is what a kind adds to Claim.
type Holding[T Object] struct {
	// Admit refuses a holder. object is as it is before the claim, holders
	// included; it runs within the compare-and-swap, so it must be quick.
	Admit func(ctx context.Context, object T, holder *metav1.Holder) error
	// Answer makes Claim's response, after the claim was written.
	Answer func(ctx context.Context, object T, holder *metav1.Holder) (proto.Message, error)
}

// Methods are the standard methods of a kind's service: Create, Get, List,
// Update, Delete, Watch, and Claim and Release where Holding is given.
type Methods[T Object] struct {
	opts MethodOptions[T]
}

// NewMethods returns the standard methods over a collection.
func NewMethods[T Object](opts MethodOptions[T]) (*Methods[T], error) { panic("soon") }

// Standard is the standard methods of some kind, for Register.
type Standard interface {
	standard()
}

func (m *Methods[T]) standard() {}

// Register serves desc with the standard methods, and with impl's for all others.
// impl implements the generated server interface, which it does by embedding
// UnimplementedXServer; nil will do where there are no others. It fails if a
// standard method isn't one of desc's.
func Register(s grpc.ServiceRegistrar, desc *grpc.ServiceDesc, impl any, standard ...Standard) error {
	panic("soon")
}
