package layer

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"orlop.dev/kit/durable"
)

// baseName is the name of a base's file: one content has one file.
func baseName(base Base) string {
	return strings.ReplaceAll(base.Digest, ":", "-") + "." + base.Format
}

// pin makes the base ours, so that nobody can take it from under a volume: by a
// hard link, or by a copy where it is on another file system. Idempotent.
func (s *Store) pin(base Base) error {
	target := filepath.Join(s.bases(), baseName(base))
	err := os.Link(base.Path, target)
	switch {
	case err == nil:
		return durable.SyncDir(s.bases())
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EPERM):
		s.logger.Warn("the image can't be linked and is copied: put disks and DVCR on one file system",
			"digest", base.Digest, "error", err)
		return copyFile(base.Path, target)
	}
	return err
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	// A name of its own: two volumes may copy one base at the same time.
	target, err := os.CreateTemp(filepath.Dir(to), filepath.Base(to)+".*"+partialSuffix)
	if err != nil {
		return err
	}
	partial := target.Name()
	_, err = io.Copy(target, source)
	if err = errors.Join(err, target.Close()); err != nil {
		return errors.Join(err, remove(partial))
	}
	return publish(partial, to)
}

// letGo removes what r stood on, as far down as nothing needs it any more. The
// caller holds mu. Records go before files: a file without a record is removed
// at the next start.
func (s *Store) letGo(r record) error {
	if r.Base == "" && r.Layer == "" {
		return nil
	}
	g, err := s.load()
	if err != nil {
		return err
	}
	for !g.needs(r) {
		if r.Base != "" {
			return remove(filepath.Join(s.bases(), r.Base))
		}
		l, found := g.layers[r.Layer]
		if !found || l.Kept {
			return nil
		}
		if err := s.erase(s.layers(), r.Layer); err != nil {
			return err
		}
		delete(g.layers, r.Layer)
		if err := remove(filepath.Join(s.volumes(), l.File)); err != nil {
			return err
		}
		r = l
		if r.Base == "" && r.Layer == "" {
			return nil
		}
	}
	return nil
}

// recover makes the folders whole after a process was killed.
func (s *Store) recover() error {
	for _, folder := range s.folders() {
		if err := removeFiles(folder, isPartial); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.load()
	if err != nil {
		return err
	}
	if err := s.settle(g); err != nil {
		return err
	}
	if err := s.dropUnneeded(g); err != nil {
		return err
	}
	files := g.files()
	if err := removeFiles(s.volumes(), func(name string) bool {
		return (strings.HasSuffix(name, "."+Format) || strings.HasSuffix(name, markSuffix)) && !files[name]
	}); err != nil {
		return err
	}
	return removeFiles(s.bases(), func(name string) bool { return !g.needs(record{Base: name}) })
}

// settle ends what was begun, in the records and in g: a volume whose file came
// to be is made, and a freeze that the volume doesn't know of never was.
func (s *Store) settle(g graph) error {
	tops := map[string]bool{}
	for id, r := range g.volumes {
		tops[r.File] = true
		if r.Made {
			continue
		}
		whole, err := exists(filepath.Join(s.volumes(), r.File))
		if err != nil {
			return err
		}
		if r.Made = whole; !whole {
			continue
		}
		if err := s.write(s.volumes(), id, r); err != nil {
			return err
		}
		g.volumes[id] = r
	}
	for id, r := range g.layers {
		if tops[r.File] {
			if err := s.erase(s.layers(), id); err != nil {
				return err
			}
			delete(g.layers, id)
		}
	}
	return nil
}

// dropUnneeded removes the records of layers that nothing needs, from g too.
func (s *Store) dropUnneeded(g graph) error {
	for again := true; again; {
		again = false
		for id, r := range g.layers {
			if r.Kept || g.needs(record{Layer: id}) {
				continue
			}
			if err := s.erase(s.layers(), id); err != nil {
				return err
			}
			delete(g.layers, id)
			again = true
		}
	}
	return nil
}
