// Package explain tells why objects are where they are: it follows what each of
// them waits for, over the services' own methods, as the user who asks.
//
// It knows conditions, holders, owners and references by the descriptors. It must
// not know any kind, nor any rule of a service: why a condition doesn't hold is
// the service's to say (docs/adr/0012).
package explain

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	explainv1 "orlop.dev/gen/orlop/explain/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

const (
	defaultNamespace = "default"
	// maxDepth bounds a tree; the longest that there is has five floors.
	maxDepth = 8
	// credential is the metadata that says who asks.
	credential = "authorization"
)

// Server implements explainv1.ExplainServiceServer.
type Server struct {
	explainv1.UnimplementedExplainServiceServer

	// Connect reaches a service by its full name, as nobody: callers bring their
	// own credentials.
	Connect func(service string) (grpc.ClientConnInterface, error)
}

// Part is the server as a piece of a process.
func (s *Server) Part() serve.Part {
	return serve.Part{
		Name: "explain",
		Register: func(registrar grpc.ServiceRegistrar) error {
			explainv1.RegisterExplainServiceServer(registrar, s)
			return nil
		},
		Ready: func(context.Context) error { return nil },
	}
}

// Explain implements explainv1.ExplainServiceServer.
func (s *Server) Explain(ctx context.Context, req *explainv1.ExplainRequest) (*explainv1.ExplainResponse, error) {
	k, err := Find(req.GetKind())
	if err != nil {
		return nil, err
	}
	key := resource.Key{Name: req.GetName()}
	if k.Namespaced {
		if key.Namespace = req.GetNamespace(); key.Namespace == "" {
			key.Namespace = defaultNamespace
		}
	}
	if key.Name == "" {
		return nil, fault.Refuse("name", "FieldValueRequired", "Required value")
	}
	w := &walk{connect: s.Connect, seen: map[place]bool{}}
	ctx = handOn(ctx)
	object, err := w.get(ctx, place{k, key})
	if err != nil {
		return nil, err
	}
	return &explainv1.ExplainResponse{Cause: w.explain(ctx, place{k, key}, object, 0)}, nil
}

// handOn passes the caller's credential to the services.
func handOn(ctx context.Context) context.Context {
	for _, value := range metadata.ValueFromIncomingContext(ctx, credential) {
		ctx = metadata.AppendToOutgoingContext(ctx, credential, value)
	}
	return ctx
}

// kinds are those that are linked in: one value each, so that places compare.
var kinds = sync.OnceValue(kind.All)

// Find returns the kind of that name: VirtualMachine, virtualmachines,
// virtualmachine or vm. Class Invalid where there is none.
func Find(name string) (*kind.Kind, error) {
	lower := strings.ToLower(name)
	for _, k := range kinds() {
		if k.Service != "" && (lower == strings.ToLower(k.Name) || lower == k.Plural || lower == k.Singular || slices.Contains(k.ShortNames, lower)) {
			return k, nil
		}
	}
	return nil, fault.Refuse("kind", "FieldValueInvalid", "there is no kind %q: kubectl api-resources lists them", name)
}
