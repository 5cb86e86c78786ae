package fault

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// UnaryServerInterceptor sends the faults of unary methods. It belongs outside
// of every interceptor that can fail.
func UnaryServerInterceptor(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	resp, err := handle(ctx, req)
	if err != nil {
		return nil, ToStatus(err).Err()
	}
	return resp, nil
}

// StreamServerInterceptor sends the faults of streaming methods.
func StreamServerInterceptor(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := handle(srv, stream); err != nil {
		return ToStatus(err).Err()
	}
	return nil
}

// UnaryClientInterceptor returns the faults of unary calls.
func UnaryClientInterceptor(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error { //nolint:revive // gRPC's signature
	return FromStatus(invoke(ctx, method, req, reply, cc, opts...))
}

// StreamClientInterceptor returns the faults of streaming calls. The end of a
// stream stays io.EOF.
func StreamClientInterceptor(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) { //nolint:revive // gRPC's signature
	stream, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return &clientStream{stream}, nil
}

// clientStream translates what each step of a stream returns.
type clientStream struct{ grpc.ClientStream }

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, translate(err)
}

func (s *clientStream) CloseSend() error    { return translate(s.ClientStream.CloseSend()) }
func (s *clientStream) SendMsg(m any) error { return translate(s.ClientStream.SendMsg(m)) }
func (s *clientStream) RecvMsg(m any) error { return translate(s.ClientStream.RecvMsg(m)) }

func translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return FromStatus(err)
}
