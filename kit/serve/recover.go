package serve

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"

	"orlop.dev/kit/fault"
)

// PanicError is a panic of a handler, with the stack where it happened. It is
// logged and never sent.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

func recoverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer caught(&err)
	return handler(ctx, req)
}

func recoverStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer caught(&err)
	return handler(srv, ss)
}

func caught(err *error) {
	if v := recover(); v != nil {
		*err = fault.Wrap(&PanicError{Value: v, Stack: debug.Stack()}, fault.Internal, fault.ReasonInternal, "internal error")
	}
}
