package garbage

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Report is what a collection took.
type Report struct {
	Manifests, Links, Blobs, Uploads int
	// Folders were empty.
	Folders int
	// FreedBytes are on disk again; those of a file with another name are not.
	FreedBytes int64
	Took       time.Duration
}

// any reports whether something was taken.
func (r Report) any() bool { return r.Manifests+r.Links+r.Blobs+r.Uploads+r.Folders > 0 }

// LogValue implements slog.LogValuer.
func (r Report) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("manifests", r.Manifests), slog.Int("links", r.Links), slog.Int("blobs", r.Blobs),
		slog.Int("uploads", r.Uploads), slog.Int("folders", r.Folders),
		slog.Int64("freedBytes", r.FreedBytes), slog.Duration("took", r.Took))
}

// sweep takes away what was found, as far as no request needs it since.
type sweep struct {
	layout layout
	gate   *gate
	trash  string
	report Report
	moved  int
}

// all goes from what needs others to what is needed, so that a kill leaves
// garbage behind and never a name without its thing.
func (s *sweep) all(ctx context.Context, found things) error {
	// What an earlier process left there would have the same names.
	if err := errors.Join(os.RemoveAll(s.trash), os.MkdirAll(s.trash, 0o700)); err != nil {
		return err
	}
	for _, kind := range []struct {
		things []thing
		count  *int
	}{
		{found.tags, new(int)},
		{found.manifests, &s.report.Manifests},
		{found.links, &s.report.Links},
		{found.blobs, &s.report.Blobs},
		{found.uploads, &s.report.Uploads},
	} {
		for _, t := range kind.things {
			if err := ctx.Err(); err != nil {
				return err
			}
			done, err := s.take(t)
			if err != nil {
				return err
			}
			if done {
				*kind.count++
			}
		}
	}
	return s.folders()
}

// take moves a thing into the trash, which takes no longer for a large one, and
// removes it there, when requests may go on.
func (s *sweep) take(t thing) (bool, error) {
	s.moved++
	trash := filepath.Join(s.trash, strconv.Itoa(s.moved))
	done, err := s.gate.unless(t.names, func() error { return os.Rename(t.path, trash) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // who is served deleted it
	}
	if err != nil || !done {
		return false, err
	}
	freed := bytesOnlyIn(trash)
	if err := os.RemoveAll(trash); err != nil {
		return false, err
	}
	s.report.FreedBytes += freed
	return true, nil
}

// folders removes repositories of which nothing is left, and folders of such.
func (s *sweep) folders() error {
	root := s.layout.repositories()
	var all []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != root {
			all = append(all, path)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(all) { // what is inside first
		inside, _ := filepath.Rel(root, dir)
		repository, _, _ := strings.Cut(inside, "/_")
		err := s.gate.unused(repository, func() error { return s.removeEmpty(dir) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sweep) removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	switch {
	case err == nil:
		s.report.Folders++
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOENT):
	default:
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// bytesOnlyIn are the bytes on disk of what has no name but those in a folder.
func bytesOnlyIn(dir string) int64 {
	const blockBytes = 512 // the unit of stat(2)
	var total int64
	// What can't be read isn't counted; removing it tells why.
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && stat.Nlink == 1 {
			total += stat.Blocks * blockBytes
		}
		return nil
	})
	return total
}

// ignoreMissing: the registry serves meanwhile.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
