package source

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"orlop.dev/services/image/internal/failure"
)

// body is a response's body under a watch: within each Stall of waiting,
// StallBytes must come. Time that the caller spends elsewhere doesn't count.
type body struct {
	rc      io.ReadCloser
	cancel  context.CancelFunc
	limits  Timeouts
	stalled atomic.Bool

	waited time.Duration // in the current window
	got    int64
}

func (b *body) read(p []byte) (int, error) {
	start := time.Now()
	watch := time.AfterFunc(b.limits.Stall-b.waited, func() {
		b.stalled.Store(true)
		b.cancel()
	})
	n, err := b.rc.Read(p)
	watch.Stop()
	b.waited += time.Since(start)
	b.got += int64(n)
	if b.got >= b.limits.StallBytes {
		b.waited, b.got = 0, 0
	}
	if err != nil && b.stalled.Load() {
		return n, failure.Temporaryf(ReasonStalled, nil,
			"the source sent less than %d bytes in %v", b.limits.StallBytes, b.limits.Stall)
	}
	return n, err
}

func (b *body) close() {
	b.cancel()
	b.rc.Close()
}
