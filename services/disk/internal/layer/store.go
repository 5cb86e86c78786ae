// Package layer keeps the data of disks on this machine: qcow2 files, each
// empty or on top of an image's blob.
//
// It owns a folder. It must not know what a VirtualDisk is, nor who uses a
// volume. It never guesses a format: a guest can write anything into its disk,
// so formats are recorded beside the files.
//
//	volumes/ID.json    what the volume is made of, written before it is made
//	volumes/ID.qcow2   the volume
//	bases/...          blobs that volumes stand on, as hard links where possible
package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// Format of every volume's top layer.
const Format = "qcow2"

// Base is a disk file that volumes can stand on. It never changes.
type Base struct {
	// Digest identifies the content: sha256:HEX.
	Digest string
	// Path of the file, on this machine.
	Path string
	// Format is what the file is known to be: qcow2, vmdk, vdi or raw.
	Format string
}

// Volume is a disk's data.
type Volume struct {
	Path         string
	VirtualBytes int64
}

// Store keeps volumes in a folder. Its methods may be called concurrently.
type Store struct {
	dir    string
	image  imageTool
	logger *slog.Logger

	// mu guards the set of records: a base goes with the last record that names
	// it.
	mu sync.Mutex
}

// Open prepares a folder, and removes what a killed process left half-made.
func Open(dir string, logger *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, image: imageTool{binary: "qemu-img"}, logger: logger}
	for _, folder := range []string{s.volumes(), s.bases()} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		if err := removePartial(folder); err != nil {
			return nil, err
		}
	}
	return s, s.collect()
}

func (s *Store) volumes() string { return filepath.Join(s.dir, "volumes") }
func (s *Store) bases() string   { return filepath.Join(s.dir, "bases") }

func (s *Store) volumePath(id string) string { return filepath.Join(s.volumes(), id+"."+Format) }

// Lookup returns a volume; false if there is none, or not yet a whole one.
func (s *Store) Lookup(_ context.Context, id string) (Volume, bool, error) {
	r, err := s.readRecord(id)
	if errors.Is(err, fs.ErrNotExist) {
		return Volume{}, false, nil
	}
	if err != nil {
		return Volume{}, false, err
	}
	path := s.volumePath(id)
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Volume{}, false, nil
		}
		return Volume{}, false, err
	}
	return Volume{Path: path, VirtualBytes: r.VirtualBytes}, true, nil
}

// Make makes a volume of that size: empty, or showing base's content. It takes
// the same short time whatever the size. Idempotent; a volume that is there is
// left as it is.
func (s *Store) Make(ctx context.Context, id string, base *Base, virtualBytes int64) error {
	if _, found, err := s.Lookup(ctx, id); err != nil || found {
		return err
	}
	earlier, err := s.readRecord(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r := record{VirtualBytes: virtualBytes}
	if base != nil {
		r.Base = baseName(*base)
		r.BaseFormat = base.Format
	}
	// The record comes first, so that nobody removes the base in between.
	if err := s.writeRecord(id, r); err != nil {
		return err
	}
	if err := s.letGo(earlier.Base); err != nil {
		return err
	}
	if base != nil {
		if err := s.pin(*base); err != nil {
			return fmt.Errorf("pin %s: %w", base.Digest, err)
		}
	}
	partial := s.volumePath(id) + partialSuffix
	if err := s.image.create(ctx, partial, r, filepath.Join("..", "bases", r.Base)); err != nil {
		return err
	}
	return publish(partial, s.volumePath(id))
}

// Grow makes a volume larger. Nobody may have it open. Idempotent; a volume is
// never made smaller.
func (s *Store) Grow(ctx context.Context, id string, virtualBytes int64) error {
	r, err := s.readRecord(id)
	if err != nil {
		return err
	}
	if virtualBytes <= r.VirtualBytes {
		return nil
	}
	if err := s.image.resize(ctx, s.volumePath(id), virtualBytes); err != nil {
		return err
	}
	r.VirtualBytes = virtualBytes
	return s.writeRecord(id, r)
}

// Remove removes a volume, and its base if no other volume stands on it.
// Idempotent.
func (s *Store) Remove(_ context.Context, id string) error {
	r, err := s.readRecord(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	path := s.volumePath(id)
	for _, file := range []string{path, path + partialSuffix} {
		if err := remove(file); err != nil {
			return err
		}
	}
	if err := remove(s.recordPath(id)); err != nil {
		return err
	}
	return s.letGo(r.Base)
}

// letGo removes a base if no record names it any more.
func (s *Store) letGo(base string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unpin(base)
}
