package layer

import (
	"context"
	"fmt"
	"path/filepath"

	"orlop.dev/services/disk/internal/qcow2"
)

// Follow has the records of a volume, and of the layers below it, say what their
// files stand on by now: where a disk has many files, the QEMU that runs with it
// copies what lies between into the upper one, and then has a lower one below it.
// Layers that nothing else needs go. It reports whether anything is new.
func (s *Store) Follow(ctx context.Context, id string) (bool, error) {
	unlock, err := s.locks.take(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.load()
	if err != nil {
		return false, err
	}
	followed := false
	for folder, name := s.volumes(), id; ; folder, name = s.layers(), r.Layer {
		if name != id {
			r = g.layers[name]
		}
		lower, found, err := s.lower(g, r)
		if err != nil {
			return followed, err
		}
		if found {
			passed := r.below()
			r.Base, r.BaseFormat, r.Layer = lower.Base, lower.BaseFormat, lower.Layer
			if err := s.write(folder, name, r); err != nil {
				return followed, err
			}
			if err := s.letGo(passed); err != nil {
				return true, err
			}
			followed = true
		}
		if r.Layer == "" {
			return followed, nil
		}
	}
}

// lower finds what a file stands on, if that is further down than its record says.
func (s *Store) lower(g graph, r record) (record, bool, error) {
	if r.Layer == "" {
		return record{}, false, nil
	}
	path, err := qcow2.BackingPath(s.filePath(r))
	if err != nil {
		return record{}, false, err
	}
	for below, first := r.below(), true; ; below, first = g.layers[below.Layer].below(), false {
		if s.pathBelow(g, below) == path {
			return below, !first, nil
		}
		if below.Layer == "" {
			return record{}, false, fmt.Errorf("%s stands on %s, which is nothing of its own", r.File, path)
		}
	}
}

// pathBelow is the file of what something stands on; empty for nothing.
func (s *Store) pathBelow(g graph, below record) string {
	switch {
	case below.Layer != "":
		return s.filePath(g.layers[below.Layer])
	case below.Base != "":
		return filepath.Join(s.bases(), below.Base)
	}
	return ""
}
