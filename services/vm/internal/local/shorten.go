package local

import (
	"context"
	"errors"
	"time"

	"orlop.dev/services/vm/internal/qemu"
)

// shortenEvery is how often it is looked for disks of too many files.
const shortenEvery = 15 * time.Second

// KeepShort has guests' disks that have many files get fewer, until ctx ends.
func (e *Engine) KeepShort(ctx context.Context) error {
	tick := time.NewTicker(shortenEvery)
	defer tick.Stop()
	for {
		e.Shorten(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Shorten looks at all guests once. What fails is tried the next time.
func (e *Engine) Shorten(ctx context.Context) {
	ids, err := e.qemu.List()
	if err != nil {
		e.logger.WarnContext(ctx, "guests can't be listed", "error", err)
	}
	for _, id := range ids {
		if err := e.shorten(ctx, id); err != nil && ctx.Err() == nil {
			e.logger.WarnContext(ctx, "a guest's disks keep their files", "vm", id, "error", err)
		}
	}
}

func (e *Engine) shorten(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := e.qemu.Shorten(ctx, id)
	if errors.Is(err, qemu.ErrGone) || errors.Is(err, qemu.ErrUnresponsive) {
		return nil // there is no guest, or it is known to be hung
	}
	return err
}
