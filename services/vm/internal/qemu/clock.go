package qemu

import (
	"context"
	"errors"

	"orlop.dev/services/vm/internal/guestagent"
)

// clockFile is there while a guest's clock is behind: it stood still for long, or
// comes from saved memory.
const clockFile = "clock"

// MendClock sets a guest's clock that is behind, by its agent, once. One that
// refuses is left as it is.
func (p *Process) MendClock(ctx context.Context) error {
	f := p.folder()
	if !f.has(clockFile) {
		return nil
	}
	refusal := new(guestagent.Error)
	if err := p.Agent().SetClock(ctx); err != nil && !errors.As(err, &refusal) {
		return err
	}
	return f.remove(clockFile)
}
