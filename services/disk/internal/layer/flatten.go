package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"orlop.dev/kit/durable"
	"orlop.dev/services/disk/internal/chain"
	"orlop.dev/services/disk/internal/jail"
	"orlop.dev/services/disk/internal/qcow2"
)

// DefaultDepth is how many files a volume may have before it is flattened.
const DefaultDepth = 8

const (
	copyBytes  = 1 << 20
	flushBytes = 64 << 20 // a flattening never has more than this unwritten
)

// Flatten makes one file of a volume's uppermost ones if it has more than depth.
// It takes as long as their data, at the least priority, and ends with ctx or
// with whatever else wants the volume; then all is as before. idle says that
// nobody uses the volume: it is asked once the work can be interrupted.
func (s *Store) Flatten(ctx context.Context, id string, depth int, idle func() bool) (done bool, err error) {
	ctx, end, err := s.beginFlatten(ctx, id)
	if err != nil || end == nil {
		return false, err
	}
	defer end()
	if !idle() {
		return false, nil
	}
	old, err := s.whole(id)
	if errors.Is(err, ErrNoVolume) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m, err := s.merge(old, depth)
	if err != nil || m == nil {
		return false, err
	}
	if err := errors.Join(old.settled(), s.free(old)); err != nil {
		return false, err
	}
	before, err := fingerprint(m.files[0].Path)
	if err != nil {
		return false, err
	}
	fresh := record{VirtualBytes: old.VirtualBytes, File: newFile(id), Base: m.below.Base, BaseFormat: m.below.BaseFormat, Layer: m.below.Layer, Place: old.Place, Made: true}
	if err := s.writeMerged(ctx, m, fresh); err != nil {
		return false, err
	}
	done, err = s.swap(ctx, id, swapping{old: old, fresh: fresh, before: before})
	if !done && !errors.Is(err, durable.ErrUncertain) {
		err = errors.Join(err, remove(s.filePath(fresh)))
	}
	return done, err
}

// beginFlatten registers the work; a nil end says that the volume is busy.
func (s *Store) beginFlatten(ctx context.Context, id string) (working context.Context, end func(), err error) {
	unlock, err := s.locks.take(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	working, end, _ = s.jobs.begin(ctx, id)
	return working, end, nil
}

// merging is what becomes one file.
type merging struct {
	files chain.Chain
	// count of the files that are merged; below is what they stand on.
	count int
	below record
}

// merge chooses how much becomes one file: what nobody else needs, if that is
// enough, and otherwise all but the base. Nil where there is nothing to do.
func (s *Store) merge(r record, depth int) (*merging, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.files(r)
	if err != nil || len(files) <= depth {
		return nil, err
	}
	g, err := s.load()
	if err != nil {
		return nil, err
	}
	own := &merging{files: files, count: 1, below: r.below()}
	for own.below.Layer != "" && !g.layers[own.below.Layer].Kept && g.users(own.below.Layer) == 1 {
		own.below = g.layers[own.below.Layer].below()
		own.count++
	}
	all := *own
	for all.below.Layer != "" {
		all.below = g.layers[all.below.Layer].below()
		all.count++
	}
	if len(files)-own.count+1 <= depth && own.count > 1 {
		return own, nil
	}
	if all.count > 1 {
		return &all, nil
	}
	return nil, nil
}

// users counts the records that stand directly on a layer.
func (g graph) users(layer string) int {
	count := 0
	for _, records := range []map[string]record{g.volumes, g.layers, g.holds} {
		for _, r := range records {
			if r.Layer == layer {
				count++
			}
		}
	}
	return count
}

func (s *Store) writeMerged(ctx context.Context, m *merging, fresh record) error {
	runs, size, err := m.files.Above(ctx, chain.Idle, m.count)
	if err != nil {
		return err
	}
	if size != fresh.VirtualBytes {
		return fmt.Errorf("%s has %d bytes, not %d", m.files[0].Path, size, fresh.VirtualBytes)
	}
	plan, err := s.plan(fresh, runs)
	if err != nil {
		return err
	}
	disk, err := chain.Open(ctx, m.files, chain.Idle)
	if err != nil {
		return err
	}
	err = writePlan(plan, disk, s.filePath(fresh))
	err = errors.Join(err, disk.Close())
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), remove(s.filePath(fresh)))
	}
	return err
}

// swapping is a volume's file and what takes its place.
type swapping struct {
	old, fresh record
	before     identity
}

// swap makes the merged file the volume's, unless anything happened to the old
// one.
func (s *Store) swap(ctx context.Context, id string, w swapping) (bool, error) {
	unlock, err := s.locks.take(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	now, found, err := s.get(id)
	if err != nil || !found || now != w.old {
		return false, err
	}
	after, err := fingerprint(s.filePath(w.old))
	if err != nil || after != w.before || ctx.Err() != nil {
		return false, errors.Join(err, ctx.Err())
	}
	if err := s.free(w.old); err != nil {
		return false, err
	}
	if err := s.replace(id, w.fresh); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The volume is flat whatever comes of the old files.
	if err := errors.Join(remove(s.filePath(w.old)), s.letGo(w.old.below())); err != nil {
		s.logger.Warn("files of a flattened volume stay until the next start", "volume", id, "error", err)
	}
	return true, nil
}

// identity tells a file's content from an earlier one's.
type identity struct {
	inode   uint64
	bytes   int64
	changed unix.Timespec
}

func fingerprint(path string) (identity, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return identity{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return identity{inode: stat.Ino, bytes: stat.Size, changed: stat.Mtim}, nil
}

// writePlan writes a planned file under its name, durably, or leaves nothing.
// The writing thread has the least priority where there is data to copy.
func writePlan(plan *qcow2.Plan, disk io.ReaderAt, path string) error {
	partial := path + partialSuffix
	if disk == nil {
		if err := fillFile(plan, nil, partial); err != nil {
			return errors.Join(err, remove(partial))
		}
		return publish(partial, path)
	}
	written := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine: nothing else inherits its priority.
		runtime.LockOSThread()
		jail.Yield(0)
		written <- fillFile(plan, disk, partial)
	}()
	if err := <-written; err != nil {
		return errors.Join(err, remove(partial))
	}
	return publish(partial, path)
}

func fillFile(plan *qcow2.Plan, disk io.ReaderAt, path string) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	source := plan.Reader(disk)
	b := make([]byte, min(copyBytes, plan.Bytes()))
	for offset := int64(0); offset < plan.Bytes(); {
		part := b[:min(int64(len(b)), plan.Bytes()-offset)]
		if _, err := source.ReadAt(part, offset); err != nil {
			return err
		}
		if _, err := file.Write(part); err != nil {
			return err
		}
		offset += int64(len(part))
		if offset%flushBytes == 0 {
			if err := unix.Fdatasync(int(file.Fd())); err != nil {
				return err
			}
		}
	}
	return nil
}
