package layer

import (
	"context"
	"fmt"

	"orlop.dev/services/disk/internal/qcow2"
)

// Measure reads a volume's size, in bytes, from its own header, and records it:
// a running VM's QEMU makes a volume larger by itself. The header is no guest's to
// write. ErrNoVolume where there is none.
func (s *Store) Measure(ctx context.Context, id string) (int64, error) {
	volume, found, err := s.Lookup(ctx, id)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("volume %s: %w", id, ErrNoVolume)
	}
	size, err := qcow2.VirtualBytes(volume.Path)
	if err != nil {
		return 0, fmt.Errorf("volume %s: %w", id, err)
	}
	if size <= volume.VirtualBytes {
		return size, nil
	}
	return size, s.Grown(ctx, id, size)
}
