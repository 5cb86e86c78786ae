// Package layer keeps the data of disks on this machine: qcow2 files, each
// empty, on top of an image's blob, or on top of another's frozen layer.
//
// It owns a folder. It must not know what a VirtualDisk is, nor who uses a
// volume. It never guesses a format: a guest can write anything into its disk,
// so formats and what stands on what are recorded beside the files.
//
//	volumes/ID.json    what a volume is made of, written before it is made
//	layers/ID.json     what a frozen layer is made of
//	holds/NAME.json    what is kept though no volume may stand on it
//	volumes/*.qcow2    the files of both: one that is frozen stays where it is
//	bases/...          blobs that they stand on, as hard links where possible
//
// Every step ends with one record that takes another's place. What a killed
// process leaves besides is removed by the next Open.
package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"orlop.dev/kit/durable"
	"orlop.dev/services/disk/internal/chain"
	"orlop.dev/services/disk/internal/qcow2"
)

// Format of every volume's top layer.
const Format = "qcow2"

// Base is what volumes can stand on: a disk file, or a frozen layer. It never
// changes.
type Base struct {
	// Digest identifies the content: sha256:HEX. Empty for a layer.
	Digest string
	// Path of the file, on this machine.
	Path string
	// Format is what the file is known to be: qcow2, vmdk, vdi or raw.
	Format string
	// Layer is a frozen layer's name: all else follows from it.
	Layer string
}

// Volume is a disk's data.
type Volume struct {
	// Path of the file on top, to write to.
	Path         string
	VirtualBytes int64
	// Lost is a volume that was whole and of which a file is gone.
	Lost bool
	// Place is where it was copied to, in the words of BeginMirror; empty where it was
	// made. Mirror is its copy in the making; the zero value for none.
	Place  string
	Mirror Mirror
}

// Errors that callers can do something about. A full file system is
// syscall.ENOSPC or syscall.EDQUOT, whatever noticed it.
var (
	ErrNoVolume = errors.New("there is no such volume")
	ErrNoLayer  = errors.New("there is no such layer")
	// ErrBusy is a volume that a process has open, or a layer that a VM may still
	// write to.
	ErrBusy = errors.New("it is in use")
	// ErrDeep is a volume of so many files that it can't have one more.
	ErrDeep = errors.New("it stands on too many layers")
)

// Store keeps volumes in a folder. Its methods may be called concurrently; those
// that change one volume wait for each other.
type Store struct {
	dir    string
	logger *slog.Logger
	locks  locks
	jobs   jobs

	// mu guards the set of records: what stands below goes with the last record
	// that names it.
	mu sync.Mutex
}

// Open prepares a folder, and removes what a killed process left half-made.
func Open(dir string, logger *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, logger: logger}
	for _, folder := range s.folders() {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.recover(); err != nil {
		return nil, err
	}
	return s, s.endMirrors()
}

func (s *Store) volumes() string { return filepath.Join(s.dir, "volumes") }
func (s *Store) layers() string  { return filepath.Join(s.dir, "layers") }
func (s *Store) holds() string   { return filepath.Join(s.dir, "holds") }
func (s *Store) bases() string   { return filepath.Join(s.dir, "bases") }

func (s *Store) folders() []string { return []string{s.volumes(), s.layers(), s.holds(), s.bases()} }

func (s *Store) filePath(r record) string { return filepath.Join(s.volumes(), r.File) }

// newFile is a name that no other file has or had: a guest may have the old one
// open.
func newFile(id string) string { return id + "." + rand.Text()[:12] + "." + Format }

// Lookup returns a volume; false if there is none, or not yet a whole one.
func (s *Store) Lookup(_ context.Context, id string) (Volume, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.volumes(), id)
	if err != nil || !found {
		return Volume{}, false, err
	}
	volume := Volume{Path: s.filePath(r), VirtualBytes: r.VirtualBytes, Place: r.Place, Mirror: s.mirrorOf(r)}
	if volume.Lost, err = s.lost(r); err != nil {
		return Volume{}, false, err
	}
	if volume.Lost && !r.Made {
		return Volume{}, false, nil
	}
	return volume, true, nil
}

// lost reports whether a file of a record is gone. The caller holds mu.
func (s *Store) lost(r record) (bool, error) {
	files, err := s.files(r)
	if errors.Is(err, ErrNoLayer) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for _, file := range files {
		if there, err := exists(file.Path); err != nil || !there {
			return err == nil, err
		}
	}
	return false, nil
}

// files are the files of a record, the top first, as far as there are records.
// The caller holds mu.
func (s *Store) files(r record) (chain.Chain, error) {
	files := chain.Chain{{Path: s.filePath(r), Format: Format}}
	for r.Layer != "" {
		below, found, err := s.read(s.layers(), r.Layer)
		if err != nil {
			return files, err
		}
		if !found {
			return files, fmt.Errorf("layer %s: %w", r.Layer, ErrNoLayer)
		}
		r = below
		files = append(files, chain.File{Path: s.filePath(r), Format: Format})
	}
	if r.Base != "" {
		files = append(files, chain.File{Path: filepath.Join(s.bases(), r.Base), Format: r.BaseFormat})
	}
	return files, nil
}

// Make makes a volume of that size: empty, or showing base's content. It takes
// the same short time whatever the size. Idempotent; a volume that is there is
// left as it is.
func (s *Store) Make(ctx context.Context, id string, base *Base, virtualBytes int64) error {
	if base != nil && base.Layer != "" {
		return s.Clone(ctx, id, base.Layer, virtualBytes)
	}
	r := record{VirtualBytes: virtualBytes}
	if base != nil {
		r.Base, r.BaseFormat = baseName(*base), base.Format
	}
	return s.make(ctx, id, r, base)
}

// make makes a volume as r says. Whoever fails leaves nothing.
func (s *Store) make(ctx context.Context, id string, r record, base *Base) error {
	unlock, err := s.locks.take(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if _, found, err := s.Lookup(ctx, id); err != nil || found {
		return err
	}
	r.File = newFile(id)
	// The record comes first, so that nobody removes what is below in between.
	if err := s.begin(id, r); err != nil {
		return err
	}
	if err = s.fill(r, base); err == nil {
		r.Made = true
		err = s.replace(id, r)
	}
	if err != nil && !errors.Is(err, durable.ErrUncertain) {
		return errors.Join(err, s.forget(id, r))
	}
	return err
}

// begin writes the record of a volume that is to be, over that of one that never
// came to be.
func (s *Store) begin(id string, r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Layer != "" {
		below, found, err := s.read(s.layers(), r.Layer)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("layer %s: %w", r.Layer, ErrNoLayer)
		}
		if below.Switching {
			return fmt.Errorf("layer %s: %w", r.Layer, ErrBusy)
		}
		if r.VirtualBytes < below.VirtualBytes {
			return fmt.Errorf("layer %s has %d bytes, more than %d", r.Layer, below.VirtualBytes, r.VirtualBytes)
		}
	}
	earlier, _, err := s.read(s.volumes(), id)
	if err != nil {
		return err
	}
	if err := s.write(s.volumes(), id, r); err != nil {
		return err
	}
	return s.letGo(earlier.below())
}

// fill makes a volume's file.
func (s *Store) fill(r record, base *Base) error {
	if base != nil {
		if err := s.pin(*base); err != nil {
			return fmt.Errorf("pin %s: %w", base.Digest, err)
		}
	}
	return s.createEmpty(r)
}

// createEmpty makes a file that shows what is below it.
func (s *Store) createEmpty(r record) error {
	plan, err := s.plan(r, nil)
	if err != nil {
		return err
	}
	return writePlan(plan, nil, s.filePath(r))
}

// plan plans a file with these clusters on what r stands on.
func (s *Store) plan(r record, runs []qcow2.Run) (*qcow2.Plan, error) {
	var backing *qcow2.Backing
	switch {
	case r.Base != "":
		backing = &qcow2.Backing{Name: filepath.Join("..", "bases", r.Base), Format: r.BaseFormat}
	case r.Layer != "":
		s.mu.Lock()
		below, found, err := s.read(s.layers(), r.Layer)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("layer %s: %w", r.Layer, ErrNoLayer)
		}
		backing = &qcow2.Backing{Name: below.File, Format: Format}
	}
	return qcow2.New(r.VirtualBytes, runs, backing)
}

func (s *Store) replace(id string, r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(s.volumes(), id, r)
}

// forget removes a volume with its file and what only it needs.
func (s *Store) forget(id string, r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.erase(s.volumes(), id); err != nil {
		return err
	}
	files := []string{s.filePath(r)}
	if mirror := s.mirrorOf(r); mirror.Path != "" {
		files = append(files, mirror.Path, mirror.Mark)
	}
	for _, file := range files {
		if err := remove(file); err != nil {
			return err
		}
	}
	return s.letGo(r.below())
}

// Remove removes a volume, and the layers and the base that nothing else needs.
// Nobody may have it open. Idempotent.
func (s *Store) Remove(ctx context.Context, id string) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, found, err := s.get(id)
	if err != nil || !found {
		return err
	}
	return s.forget(id, r)
}

func (s *Store) get(id string) (record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read(s.volumes(), id)
}

// whole returns the record of a volume that is there: ErrNoVolume otherwise.
func (s *Store) whole(id string) (record, error) {
	r, found, err := s.get(id)
	switch {
	case err != nil:
		return r, err
	case !found || !r.Made:
		return r, fmt.Errorf("volume %s: %w", id, ErrNoVolume)
	}
	return r, nil
}
