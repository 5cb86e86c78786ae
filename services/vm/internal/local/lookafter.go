package local

import (
	"context"
	"errors"
	"time"

	"orlop.dev/services/vm/internal/qemu"
)

const (
	// lookEvery is how often guests are looked after.
	lookEvery = 10 * time.Second
	// dueMost is how many guests may wait to be looked after at once; more have time
	// until the next look.
	dueMost = 64
)

// notify is told what happens to guests. It must not block.
func (e *Engine) notify(event qemu.Event) {
	if qemu.Copied(event) {
		select {
		case e.due <- event.Machine:
		default:
		}
	}
	if event.Name == qemu.EventResume {
		e.lookAgain(event.Machine)
	}
	e.changed(event.Machine)
}

// LookAfter looks after guests until ctx ends: one that stands still for want of space
// goes on when there is some, and disks that have many files get fewer.
func (e *Engine) LookAfter(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	e.lookAfterAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-e.due:
			e.lookAfter(ctx, id)
		case <-tick.C:
			e.lookAfterAll(ctx)
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
		e.lookAfter(ctx, id)
	}
}

func (e *Engine) lookAfter(ctx context.Context, id string) {
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := errors.Join(e.qemu.GoOn(bounded, id), e.qemu.Shorten(bounded, id))
	for _, passing := range []error{qemu.ErrNotFound, qemu.ErrGone, qemu.ErrUnresponsive} {
		if errors.Is(err, passing) {
			return // there is no guest, or it is known to be hung
		}
	}
	if err != nil && ctx.Err() == nil {
		e.logger.WarnContext(ctx, "a guest can't be looked after now", "vm", id, "error", err)
	}
}
