package layer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/services/disk/internal/jail"
)

// Grow makes a volume larger. Nobody may have it open (ErrBusy). Idempotent; a
// volume is never made smaller.
func (s *Store) Grow(ctx context.Context, id string, virtualBytes int64) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil || virtualBytes <= r.VirtualBytes {
		return err
	}
	if err := s.free(r); err != nil {
		return err
	}
	if err := s.resize(ctx, s.filePath(r), virtualBytes); err != nil {
		return err
	}
	r.VirtualBytes = virtualBytes
	return s.replace(id, r)
}

// Grown records that a running VM's QEMU has made a volume larger. Idempotent; a
// smaller size changes nothing.
func (s *Store) Grown(ctx context.Context, id string, virtualBytes int64) error {
	unlock, err := s.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil || virtualBytes <= r.VirtualBytes {
		return err
	}
	r.VirtualBytes = virtualBytes
	return s.replace(id, r)
}

// free returns ErrBusy if a process has a volume's file open.
func (s *Store) free(r record) error {
	busy, err := inUse(s.filePath(r))
	if err == nil && busy {
		return fmt.Errorf("%s: %w", r.File, ErrBusy)
	}
	return err
}

// resizeTimeout bounds the change of a few tables.
const resizeTimeout = time.Minute

// leastRoom is what a table of qcow2 needs to be moved.
const leastRoom = 1 << 20

// resize changes the size in a file's tables. A file that is larger than its
// record says is no harm: it is grown again.
func (s *Store) resize(ctx context.Context, path string, virtualBytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	err := jail.Run(ctx, jail.Options{Writes: true},
		"qemu-img", "resize", "-q", "-f", Format, path, strconv.FormatInt(virtualBytes, 10))
	if err == nil {
		return nil
	}
	// The tool says it to people only; the file system says it to programs.
	var stat unix.Statfs_t
	if unix.Statfs(s.dir, &stat) == nil && int64(stat.Bavail)*stat.Bsize < leastRoom {
		return errors.Join(err, syscall.ENOSPC)
	}
	return err
}
