// Package serve is the bootstrap of every process of the suite: listeners, TLS,
// health, reflection, the chain of interceptors, metrics, and an orderly end.
// It is also the caller's end of the same wire: see [Dial].
//
// It owns the life of a process. It must not know what the process does: that
// comes as [Part]s.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// Part is a piece of a process, such as one service. Its fields may be nil.
type Part struct {
	// Name says in logs which part it is.
	Name string
	// Register puts the part's services on the server, before it serves.
	Register func(grpc.ServiceRegistrar) error
	// Ready blocks until the part can answer, or ctx ends. Until then the health
	// of its services is NOT_SERVING. A part without it is ready at once.
	Ready func(ctx context.Context) error
	// Run does the part's work until ctx ends, which is after the last call was
	// answered. Its error ends the process.
	Run func(ctx context.Context) error
}

// SignalContext returns a context that ends with SIGINT or SIGTERM. A second
// signal ends the process at once.
func SignalContext(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Run serves the parts until ctx ends or one of them fails, and returns after
// everything has stopped: nil if ctx ended, else the first failure.
//
// The end is orderly: health says NOT_SERVING, streams are cut with a reason,
// calls under way get Options.StopTimeout to finish, and only then are the
// parts told to stop.
func Run(ctx context.Context, c Config, parts ...Part) error {
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return err
	}
	c.Logger.Info("starting", "name", c.Name, "options", c.Options)
	p, err := newProcess(c, parts)
	if err != nil {
		if c.Listener != nil {
			err = errors.Join(err, c.Listener.Close())
		}
		return err
	}
	return p.run(ctx)
}

// process is one Run.
type process struct {
	config   Config
	parts    []Part
	health   *readiness
	drain    *drain
	server   *grpc.Server
	public   net.Listener
	internal *private // nil without a private address
}

func newProcess(c Config, parts []Part) (*process, error) {
	p := &process{config: c, parts: parts, health: newReadiness(), drain: newDrain()}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	if p.server, err = p.newServer(tlsConfig); err != nil {
		return nil, err
	}
	if p.public = c.Listener; p.public == nil {
		if p.public, err = net.Listen("tcp", c.Address); err != nil {
			return nil, fmt.Errorf("listen for gRPC: %w", err)
		}
	}
	if c.PrivateAddress != "" {
		if p.internal, err = newPrivate(c.PrivateAddress, c.Registry, p.health); err != nil {
			return nil, errors.Join(err, p.public.Close())
		}
	}
	return p, nil
}

// run owns all goroutines of the process. Parts live in a context of their
// own, because calls that are still under way at the end need them.
func (p *process) run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	group, failed := errgroup.WithContext(work)
	for _, part := range p.parts {
		group.Go(func() error { return p.runPart(failed, part) })
		group.Go(func() error { return p.awaitPart(failed, part) })
	}
	group.Go(func() error { return p.server.Serve(p.public) })
	if p.internal != nil {
		group.Go(p.internal.serve)
	}
	p.config.Logger.Info("serving", "address", p.public.Addr().String())

	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	p.config.Logger.Info("stopping", "timeout", p.config.StopTimeout)
	p.stopServing()
	stopWork()
	if p.internal != nil {
		p.internal.stop()
	}
	err := group.Wait()
	p.config.Logger.Info("stopped")
	return err
}

func (p *process) runPart(ctx context.Context, part Part) error {
	if part.Run == nil {
		return nil
	}
	err := part.Run(ctx)
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", part.Name, err)
}

func (p *process) awaitPart(ctx context.Context, part Part) error {
	if part.Ready != nil {
		if err := part.Ready(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // ctx ended
			}
			return fmt.Errorf("%s: %w", part.Name, err)
		}
	}
	p.config.Logger.Info("ready", "part", part.Name)
	p.health.ready(part.Name)
	return nil
}

// stopServing ends the server gracefully, and by force when the time is up.
func (p *process) stopServing() {
	p.health.stop()
	p.drain.begin()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.server.GracefulStop()
	}()
	timer := time.NewTimer(p.config.StopTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		p.config.Logger.Warn("calls under way are cut", slog.Duration("after", p.config.StopTimeout))
		p.server.Stop()
		<-done
	}
}
