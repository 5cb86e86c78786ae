package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sync/errgroup"

	"orlop.dev/facade/internal/stream"
)

// forward is a local address and what a connection to it is tied to.
type forward struct {
	// host:port; port 0 is a free one.
	local string
	// to names the far end for people.
	to   string
	open func(ctx context.Context) (*stream.Stream, error)
}

// forwarder serves local connections.
type forwarder struct {
	out, note io.Writer
	// listening is told each address, if it is there.
	listening func(net.Addr)
}

// run serves until the context ends.
func (f *forwarder) run(ctx context.Context, forwards []forward) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, one := range forwards {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", one.local)
		if err != nil {
			return fmt.Errorf("forward to %s: %w", one.to, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
		defer stop()
		defer listener.Close()
		fmt.Fprintf(f.out, "Forwarding from %s to %s\n", listener.Addr(), one.to)
		if f.listening != nil {
			f.listening(listener.Addr())
		}
		group.Go(func() error { return f.accept(ctx, listener, one) })
	}
	return group.Wait()
}

func (f *forwarder) accept(ctx context.Context, listener net.Listener, to forward) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		local, err := listener.Accept()
		if ctx.Err() != nil {
			return group.Wait()
		}
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			// One connection that fails is no reason to leave the others.
			if err := lead(ctx, local, to); err != nil && ctx.Err() == nil {
				fmt.Fprintf(f.note, "%s: %v\n", to.to, err)
			}
			return nil
		})
	}
}

// lead ends when either side does.
func lead(ctx context.Context, local net.Conn, to forward) error {
	far, err := to.open(ctx)
	if err != nil {
		return errors.Join(err, local.Close())
	}
	return stream.Relay(local, far, func(error) { _ = local.Close() })
}
