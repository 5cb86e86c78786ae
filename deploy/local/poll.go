package local

import (
	"context"
	"fmt"
	"time"
)

const (
	dialTimeout  = 2 * time.Second
	pollInterval = 50 * time.Millisecond
	pollTimeout  = 2 * time.Minute // a busy machine takes far longer than the usual second
)

// poll repeats an attempt until it succeeds, and returns its last failure when
// that takes too long.
func poll(ctx context.Context, attempt func() error) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
