package dvcr

import (
	"context"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// uploadBody is the body of one PATCH: it hashes what passes and watches that
// the registry keeps taking. Time in which the source gives nothing is the
// source's to bound.
type uploadBody struct {
	first  []byte
	r      io.Reader
	hash   hash.Hash
	cancel context.CancelFunc
	stall  time.Duration

	stalled atomic.Bool

	mu       sync.Mutex // the transport may read on while a request fails
	watch    *time.Timer
	finished bool
	sent     int64
	ended    bool
	err      error // of the source
}

// Read implements io.Reader for the transport.
func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.finished {
		return 0, io.ErrClosedPipe
	}
	if b.watch != nil {
		b.watch.Stop()
	}
	n, err := b.next(p)
	b.hash.Write(p[:n])
	b.sent += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
	case err != nil:
		b.err = err
	}
	b.watch = time.AfterFunc(b.stall, func() {
		b.stalled.Store(true)
		b.cancel()
	})
	return n, err
}

func (b *uploadBody) next(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.r.Read(p)
}

// finish stops the watch and all further reading, so that the source is the
// caller's again.
func (b *uploadBody) finish() (sent int64, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finished = true
	if b.watch != nil {
		b.watch.Stop()
	}
	return b.sent, b.ended
}
