package layer

import (
	"context"
	"errors"
	"fmt"

	"orlop.dev/kit/durable"
)

// Revert makes a volume show what a layer has, and nothing of what was written to
// it otherwise: in one step, whatever the size. Nobody may have the volume open
// (ErrBusy). It stays as large as it is, if the layer is smaller. Repeating it
// drops what was written in between.
func (s *Store) Revert(ctx context.Context, id, layer string) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.whole(id)
	if err != nil {
		return err
	}
	if err := errors.Join(old.settled(), s.free(old)); err != nil {
		return err
	}
	below, found, err := s.layer(layer)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("layer %s: %w", layer, ErrNoLayer)
	case below.Switching:
		return fmt.Errorf("layer %s: %w", layer, ErrBusy)
	}
	fresh := record{
		VirtualBytes: max(old.VirtualBytes, below.VirtualBytes), File: newFile(id), Layer: layer, Place: old.Place, Made: true,
	}
	if err := s.createEmpty(fresh); err != nil {
		return err
	}
	if err := s.replace(id, fresh); err != nil {
		if !errors.Is(err, durable.ErrUncertain) {
			err = errors.Join(err, remove(s.filePath(fresh)))
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The volume is reverted whatever comes of the old files.
	if err := errors.Join(remove(s.filePath(old)), s.letGo(old.below())); err != nil {
		s.logger.WarnContext(ctx, "files of a reverted volume stay until the next start", "volume", id, "error", err)
	}
	return nil
}
