package auth

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// Unary returns the interceptor for calls with one request.
func (g *Guard) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, c, err := g.admit(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		if ctx, _, err = g.authorize(ctx, c, req); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// Stream returns the interceptor for streams. Who calls is checked at once;
// what the stream is about is known from its first message only, so the right
// is checked when the handler receives it, and nothing is sent before.
func (g *Guard) Stream() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, c, err := g.admit(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		if c.rule.need != needRight {
			return handler(srv, &identified{ServerStream: ss, ctx: ctx})
		}
		return handler(srv, &guarded{ServerStream: ss, guard: g, call: c, ctx: ctx})
	}
}

// identified is a stream whose context carries the user.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *identified) Context() context.Context { return s.ctx }

// guarded is a stream that needs a right. gRPC allows one receiver and one
// sender at a time; the lock is between these two.
type guarded struct {
	grpc.ServerStream
	guard *Guard
	call  call

	mu     sync.Mutex
	ctx    context.Context
	passed bool
	target kind.Target
}

func (s *guarded) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx
}

func (s *guarded) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed {
		return s.same(m)
	}
	ctx, t, err := s.guard.authorize(s.ctx, s.call, m)
	if err != nil {
		return err
	}
	s.ctx, s.target, s.passed = ctx, t, true
	return nil
}

// same refuses a later message that names another object than the one that
// the caller was found to have a right to.
func (s *guarded) same(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return fault.New(fault.Internal, "RequestType", "request of type %T can't be checked", m)
	}
	t, err := s.call.rule.target(msg)
	if err != nil {
		return err
	}
	if t.Namespace != "" && t.Namespace != s.target.Namespace || t.Name != "" && t.Name != s.target.Name {
		return fault.New(fault.Denied, ReasonForbidden, "a stream can't turn to another object")
	}
	return nil
}

func (s *guarded) SendMsg(m any) error {
	s.mu.Lock()
	passed := s.passed
	s.mu.Unlock()
	if !passed {
		return fault.New(fault.Internal, "SendBeforeCheck", "%s answered before it was asked", s.call.method)
	}
	return s.ServerStream.SendMsg(m)
}
