package export

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"orlop.dev/kit/resource"
)

const (
	// HolderKind is the kind of the holder that an object has while it is exported.
	HolderKind = "VirtualDiskExport"

	releaseTimeout = 10 * time.Second
	sweepEvery     = 30 * time.Second
)

// holds are the objects that are exported just now: each has one holder, however
// many read it.
type holds struct {
	subject subject
	logger  *slog.Logger

	// mu is held while a holder is written or removed, too: a sweep must not take
	// one for stale that is new.
	mu      sync.Mutex
	readers map[resource.Key]*readers
}

// readers are those of one object.
type readers struct {
	held
	count int
}

// take holds an object until it is released.
func (h *holds) take(ctx context.Context, key resource.Key) (place string, release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	present := h.readers[key]
	if present == nil {
		taken, err := h.subject.hold(ctx, key)
		if err != nil {
			return "", nil, err
		}
		present = &readers{held: taken}
		h.readers[key] = present
	}
	present.count++
	ended := context.WithoutCancel(ctx)
	return present.place, sync.OnceFunc(func() { h.release(ended, key) }), nil
}

func (h *holds) release(ctx context.Context, key resource.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	present := h.readers[key]
	if present.count--; present.count > 0 {
		return
	}
	delete(h.readers, key)
	h.remove(ctx, present.held)
}

func (h *holds) remove(ctx context.Context, last held) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := h.subject.letGo(ctx, last); err != nil {
		h.logger.WarnContext(ctx, "an export's hold stays until the next sweep", "object", last.key, "error", err)
	}
}

// run removes holds that no export has: a process that was killed leaves them,
// and so does one that could not reach the store.
func (h *holds) run(ctx context.Context) error {
	if h.subject.waitSynced(ctx) != nil {
		return nil // ctx ended
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		h.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *holds) sweep(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left, err := h.subject.left()
	if err != nil {
		return
	}
	for _, one := range left {
		if h.readers[one.key] == nil {
			h.remove(ctx, one)
		}
	}
}
