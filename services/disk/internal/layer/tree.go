package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"orlop.dev/services/disk/internal/qcow2"
)

// Kind of a piece that a volume is made of.
type Kind int

// The kinds, from the top down.
const (
	// Top is the file that the volume writes to.
	Top Kind = iota
	// Frozen is a layer that never changes.
	Frozen
	// Image is an image's blob.
	Image
)

// Piece is one file of a volume.
type Piece struct {
	Kind Kind
	// Name is a layer's, or an image's digest.
	Name   string
	Format string
	// VirtualBytes is how large a disk it shows; 0 for an image that is neither
	// qcow2 nor raw. OwnBytes is what it takes on disk.
	VirtualBytes, OwnBytes int64
	// Kept is a layer that is held by name.
	Kept bool
	// Users are the other volumes that stand on it, sorted.
	Users []string
}

// Pieces returns what a volume is made of, the top first; ErrNoVolume if there
// is none.
func (s *Store) Pieces(_ context.Context, id string) ([]Piece, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.load()
	if err != nil {
		return nil, err
	}
	r, found := g.volumes[id]
	if !found {
		return nil, fmt.Errorf("volume %s: %w", id, ErrNoVolume)
	}
	pieces := []Piece{{Kind: Top, Name: id, Format: Format, VirtualBytes: r.VirtualBytes}}
	paths := []string{s.filePath(r)}
	for r.Layer != "" {
		name := r.Layer
		r = g.layers[name]
		pieces = append(pieces, Piece{
			Kind: Frozen, Name: name, Format: Format, VirtualBytes: r.VirtualBytes, Kept: r.Kept,
			Users: g.above(id, func(other record) bool { return other.Layer == name }),
		})
		paths = append(paths, s.filePath(r))
	}
	if r.Base != "" {
		pieces = append(pieces, Piece{
			Kind: Image, Name: digestOf(r), Format: r.BaseFormat, VirtualBytes: s.imageBytes(r),
			Users: g.above(id, func(other record) bool { return other.Base == r.Base }),
		})
		paths = append(paths, filepath.Join(s.bases(), r.Base))
	}
	for i, path := range paths {
		// A file that is lost takes nothing.
		if pieces[i].OwnBytes, err = ownBytes(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return pieces, nil
}

// imageBytes is the size of the disk in a base; 0 where it can't be told.
func (s *Store) imageBytes(r record) int64 {
	path := filepath.Join(s.bases(), r.Base)
	switch r.BaseFormat {
	case Format:
		if size, err := qcow2.VirtualBytes(path); err == nil {
			return size
		}
	case "raw":
		if info, err := os.Stat(path); err == nil {
			return info.Size()
		}
	}
	return 0
}

// digestOf reads back what baseName wrote.
func digestOf(r record) string {
	return strings.Replace(strings.TrimSuffix(r.Base, "."+r.BaseFormat), "-", ":", 1)
}

// above are the volumes besides one that have a part that stands so.
func (g graph) above(besides string, stands func(record) bool) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(g.volumes)) {
		for r := g.volumes[id]; id != besides; r = g.layers[r.Layer] {
			if stands(r) {
				ids = append(ids, id)
				break
			}
			if r.Layer == "" {
				break
			}
		}
	}
	return ids
}

// Deep are the volumes with more files than that, sorted.
func (s *Store) Deep(_ context.Context, depth int) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.load()
	if err != nil {
		return nil, err
	}
	var deep []string
	for _, id := range slices.Sorted(maps.Keys(g.volumes)) {
		files, err := s.files(g.volumes[id])
		if err == nil && len(files) > depth {
			deep = append(deep, id)
		}
	}
	return deep, nil
}
