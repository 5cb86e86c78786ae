package source

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// budget counts attempts since the last progress, and paces them.
type budget struct {
	retry   Retry
	pace    *backoff.ExponentialBackOff
	used    int
	mark    int64 // offset at the last progress
	shorted int   // attempts that ended in a body shorter than its length
}

func newBudget(r Retry, offset int64) *budget {
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval = r.Initial
	pace.MaxInterval = r.Max
	pace.Reset()
	return &budget{retry: r, pace: pace, mark: offset}
}

// reached tells how far reading has come. Crumbs don't count, so that a server
// which sends a few bytes a connection can't go on for ever.
func (b *budget) reached(offset int64) {
	if offset-b.mark < b.retry.ProgressBytes {
		return
	}
	b.mark, b.used, b.shorted = offset, 0, 0
	b.pace.Reset()
}

// spend takes one attempt, waiting before it: at least for what the server asked
// (bounded), else with growing, jittered pauses. It reports false when none is
// left.
func (b *budget) spend(ctx context.Context, asked time.Duration) (bool, error) {
	if b.used >= b.retry.Attempts {
		return false, nil
	}
	b.used++
	pause := max(b.pace.NextBackOff(), min(asked, b.retry.Max))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		return true, nil
	}
}
