package layer

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Keeper flattens deep volumes in the background, one at a time, and follows those
// that their VMs have shortened.
type Keeper struct {
	Store *Store
	// Depth is how many files a volume may have; 0 means DefaultDepth.
	Depth int
	// Every is how often volumes are looked at; 0 means a minute.
	Every time.Duration
	// Idle reports whether nobody uses a volume. What claims one must write that
	// down first, then call Store.Interrupt, then open the file.
	Idle   func(id string) bool
	Logger *slog.Logger
}

const keeperPause = time.Minute

// Run works until ctx ends, and returns nil then.
func (k *Keeper) Run(ctx context.Context) error {
	every := k.Every
	if every == 0 {
		every = keeperPause
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		k.Pass(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Pass looks at all volumes once. What fails is tried in the next pass.
func (k *Keeper) Pass(ctx context.Context) {
	depth := k.Depth
	if depth == 0 {
		depth = DefaultDepth
	}
	deep, err := k.Store.Deep(ctx, depth)
	if err != nil {
		k.Logger.ErrorContext(ctx, "the depth of volumes is not known", "error", err)
	}
	for _, id := range deep {
		if followed, err := k.Store.Follow(ctx, id); err != nil {
			k.Logger.WarnContext(ctx, "it is not known what a volume stands on", "volume", id, "error", err)
		} else if followed {
			k.Logger.InfoContext(ctx, "volume was shortened under its VM", "volume", id)
			continue
		}
		began := time.Now()
		done, err := k.Store.Flatten(ctx, id, depth, func() bool { return k.Idle(id) })
		switch {
		case done:
			k.Logger.InfoContext(ctx, "volume flattened", "volume", id, "took", time.Since(began))
		case errors.Is(err, context.Canceled), errors.Is(err, ErrBusy):
			k.Logger.DebugContext(ctx, "volume is wanted: flattened later", "volume", id)
		case err != nil:
			k.Logger.WarnContext(ctx, "volume not flattened", "volume", id, "error", err)
		}
	}
}
