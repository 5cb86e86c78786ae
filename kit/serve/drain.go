package serve

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"orlop.dev/kit/fault"
)

// errStopping is why streams end when the process does.
var errStopping = errors.New("the server is stopping")

// drain cuts streams at the end of a process: a watch would otherwise hold a
// graceful stop up until its deadline.
type drain struct {
	ctx   context.Context
	begin context.CancelFunc
}

func newDrain() *drain {
	ctx, cancel := context.WithCancel(context.Background())
	return &drain{ctx: ctx, begin: cancel}
}

func (d *drain) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(errStopping) })()
	err := handler(srv, &cuttable{ServerStream: ss, ctx: ctx})
	if errors.Is(context.Cause(ctx), errStopping) && err != nil {
		return fault.Wrap(err, fault.Transient, "ServerStopping", "%s", errStopping)
	}
	return err
}

type cuttable struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *cuttable) Context() context.Context { return s.ctx }
