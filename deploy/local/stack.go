package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// errEnded says that a part went away by itself.
var errEnded = errors.New("ended without being asked to")

// stack has what was started, so that it is stopped in the reverse order, each
// thing when nothing that needs it is left.
type stack struct {
	ctx    context.Context // ends when the stack has to be stopped
	fail   context.CancelCauseFunc
	logger *slog.Logger
	stops  []stopper
}

type stopper struct {
	name string
	stop func() error
}

func newStack(ctx context.Context, fail context.CancelCauseFunc, logger *slog.Logger) *stack {
	return &stack{ctx: ctx, fail: fail, logger: logger}
}

// push adds something that runs already.
func (s *stack) push(name string, stop func() error) {
	s.stops = append(s.stops, stopper{name, stop})
}

// run runs something until its turn to stop comes. If it ends before that, all
// has to be stopped.
func (s *stack) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	ended := make(chan error, 1)
	go func() {
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errEnded
			}
			s.fail(fmt.Errorf("%s: %w", name, err))
			err = nil // it was told
		}
		ended <- err
	}()
	s.push(name, func() error {
		cancel()
		err := <-ended
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}

// watch stops everything when the channel says that a part has failed.
func (s *stack) watch(name string, failed <-chan struct{}, why func() error) {
	go func() {
		select {
		case <-failed:
			s.fail(fmt.Errorf("%s: %w", name, why()))
		case <-s.ctx.Done():
		}
	}()
}

// stop stops all, the last started first, and returns when it is done.
func (s *stack) stop() error {
	var failed []error
	for _, part := range slices.Backward(s.stops) {
		s.logger.Info("stopping", "part", part.name)
		if err := part.stop(); err != nil {
			failed = append(failed, fmt.Errorf("stop %s: %w", part.name, err))
		}
	}
	s.stops = nil
	return errors.Join(failed...)
}
