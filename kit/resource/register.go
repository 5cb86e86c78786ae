package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

type (
	unaryFunc  func(context.Context, proto.Message) (proto.Message, error)
	streamFunc func(context.Context, proto.Message, func(proto.Message) error) error
)

// Standard is the standard methods of some kind, for Register: a *Methods.
type Standard interface {
	described() *kind.Kind
	unary() map[kind.Verb]unaryFunc
	watch(context.Context, proto.Message, func(proto.Message) error) error
}

func (m *Methods[T]) described() *kind.Kind { return m.kind }

// Register serves desc with the standard methods, and with impl's for all others.
// impl implements the generated server interface, which it does by embedding
// UnimplementedXServer; nil will do where there are no others. It fails if a
// standard method isn't one of desc's.
//
// The generated descriptor names each method's handler; those of the standard
// methods are replaced by ones that read the request by its descriptor.
func Register(s grpc.ServiceRegistrar, desc *grpc.ServiceDesc, impl any, standard ...Standard) error {
	unary, streams, err := handlersOf(desc, standard)
	if err != nil {
		return err
	}
	served := *desc
	served.Methods = slices.Clone(desc.Methods)
	for i, m := range served.Methods {
		if h, ok := unary[m.MethodName]; ok {
			served.Methods[i].Handler = h
			delete(unary, m.MethodName)
		} else if impl == nil {
			served.Methods[i].Handler = unimplementedUnary(desc, m.MethodName)
		}
	}
	served.Streams = slices.Clone(desc.Streams)
	for i, m := range served.Streams {
		if h, ok := streams[m.StreamName]; ok {
			served.Streams[i].Handler = h
			delete(streams, m.StreamName)
		} else if impl == nil {
			served.Streams[i].Handler = unimplementedStream(desc, m.StreamName)
		}
	}
	if left := append(slices.Collect(maps.Keys(unary)), slices.Collect(maps.Keys(streams))...); len(left) > 0 {
		return fmt.Errorf("service %s has no methods %q", desc.ServiceName, left)
	}
	if impl == nil {
		// grpc checks impl against HandlerType, and hands it to every handler.
		served.HandlerType, impl = (*any)(nil), struct{}{}
	}
	s.RegisterService(&served, impl)
	return nil
}

// handlersOf returns the handlers of the standard methods by method name.
func handlersOf(desc *grpc.ServiceDesc, standard []Standard) (map[string]unaryHandler, map[string]grpc.StreamHandler, error) {
	unary, streams := map[string]unaryHandler{}, map[string]grpc.StreamHandler{}
	for _, s := range standard {
		k := s.described()
		if string(k.Service) != desc.ServiceName {
			return nil, nil, fmt.Errorf("%s is served by %q, not by %s", k, k.Service, desc.ServiceName)
		}
		for verb, serve := range s.unary() {
			if m := k.Methods.Of(verb); m != nil {
				input, err := typeOf(m.Input())
				if err != nil {
					return nil, nil, err
				}
				unary[string(m.Name())] = serveUnary(kind.Path(m), input, serve)
			}
		}
		if m := k.Methods.Watch; m != nil {
			input, err := typeOf(m.Input())
			if err != nil {
				return nil, nil, err
			}
			streams[string(m.Name())] = serveStream(input, s.watch)
		}
	}
	return unary, streams, nil
}

// unaryHandler is what grpc calls for a unary method.
type unaryHandler = func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error)

func serveUnary(path string, input protoreflect.MessageType, serve unaryFunc) unaryHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := input.New().Interface()
		if err := decode(req); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, req any) (any, error) { return serve(ctx, req.(proto.Message)) }
		if intercept == nil {
			return handle(ctx, req)
		}
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: path}, handle)
	}
}

func serveStream(input protoreflect.MessageType, serve streamFunc) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		req := input.New().Interface()
		if err := stream.RecvMsg(req); err != nil {
			return err
		}
		return serve(stream.Context(), req, func(m proto.Message) error { return stream.SendMsg(m) })
	}
}

// unimplementedUnary answers through the interceptors, so that a caller without a
// credential learns nothing.
func unimplementedUnary(desc *grpc.ServiceDesc, method string) unaryHandler {
	path := "/" + desc.ServiceName + "/" + method
	return serveUnary(path, (&emptypb.Empty{}).ProtoReflect().Type(), func(context.Context, proto.Message) (proto.Message, error) {
		return nil, unimplemented(desc, method)
	})
}

func unimplementedStream(desc *grpc.ServiceDesc, method string) grpc.StreamHandler {
	return func(any, grpc.ServerStream) error { return unimplemented(desc, method) }
}

func unimplemented(desc *grpc.ServiceDesc, method string) error {
	return fault.New(fault.Invalid, "Unimplemented", "%s is not served by %s", method, desc.ServiceName)
}
