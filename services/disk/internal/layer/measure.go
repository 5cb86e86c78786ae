package layer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// What Measure reads of a qcow2 header, by QEMU's docs/interop/qcow2.
const (
	qcow2Magic      = "QFI\xfb"
	qcow2SizeOffset = 24
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
	size, err := headerSize(volume.Path)
	if err != nil {
		return 0, fmt.Errorf("volume %s: %w", id, err)
	}
	if size <= volume.VirtualBytes {
		return size, nil
	}
	return size, s.Grown(ctx, id, size)
}

// headerSize is the size of the disk in a qcow2 file, in bytes.
func headerSize(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	header := make([]byte, qcow2SizeOffset+8)
	_, err = file.ReadAt(header, 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, fmt.Errorf("header of %s: %w", path, err)
	}
	if string(header[:len(qcow2Magic)]) != qcow2Magic {
		return 0, fmt.Errorf("header of %s: %w", path, errNoQCOW2)
	}
	return int64(binary.BigEndian.Uint64(header[qcow2SizeOffset:])), nil
}

var errNoQCOW2 = errors.New("it is none of qcow2")
