package local

import (
	"context"
	"errors"
	"time"

	"orlop.dev/services/vm/internal/qemu"
)

// lookEvery is how often guests are looked after.
const lookEvery = 10 * time.Second

// LookAfter looks after guests until ctx ends: one that stands still for want of space
// goes on when there is some, and disks that have many files get fewer.
func (e *Engine) LookAfter(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		e.lookAfterAll(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookAfterAll looks at all guests once. What fails is tried the next time.
func (e *Engine) lookAfterAll(ctx context.Context) {
	ids, err := e.qemu.List()
	if err != nil {
		e.logger.WarnContext(ctx, "guests can't be listed", "error", err)
	}
	for _, id := range ids {
		if err := e.lookAfter(ctx, id); err != nil && ctx.Err() == nil {
			e.logger.WarnContext(ctx, "a guest can't be looked after now", "vm", id, "error", err)
		}
	}
}

func (e *Engine) lookAfter(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := errors.Join(e.qemu.GoOn(ctx, id), e.qemu.Shorten(ctx, id))
	for _, passing := range []error{qemu.ErrNotFound, qemu.ErrGone, qemu.ErrUnresponsive} {
		if errors.Is(err, passing) {
			return nil // there is no guest, or it is known to be hung
		}
	}
	return err
}
