package cli

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"orlop.dev/kit/fault"
)

// transfer is the way of a file to or from a service, over as many connections as
// it takes.
type transfer struct {
	bar *bar
	// timeout bounds the time without progress.
	timeout time.Duration
	// attempt goes on over one connection, and reports whether all is done.
	attempt func(context.Context) (done bool, err error)
	// bytes are those that are known to have arrived.
	bytes func() int64
	// passes reports failures that may pass by themselves.
	passes func(error) bool
}

// run goes on until all is done, nothing helps, or nothing has moved for long.
func (t *transfer) run(ctx context.Context) error {
	defer t.bar.end()
	pace, progress := retryPace(), time.Now()
	for {
		before := t.bytes()
		done, err := t.attempt(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case done, err != nil && !t.passes(err):
			return err
		case t.bytes() > before:
			pace, progress = retryPace(), time.Now()
		case time.Since(progress) > t.timeout:
			return err
		}
		if err == nil {
			continue // what was sent was taken; look what is left
		}
		t.bar.say(fmt.Sprintf("%s; trying again", fault.From(err).Message))
		if err := pause(ctx, pace.Step()); err != nil {
			return err
		}
	}
}

func retryPace() wait.Backoff {
	return wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 1 << 30, Cap: 10 * time.Second}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
