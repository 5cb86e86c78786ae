package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Held is a content that is kept under a name.
type Held struct {
	Base
	// VirtualBytes is the size of a layer; 0 for a file. OwnBytes is what the file
	// and all below it take on disk.
	VirtualBytes, OwnBytes int64
	// Lost is a content of which a file is gone.
	Lost bool
}

// Hold keeps a content under a name until Unhold, even if no volume stands on it.
// It takes the same short time whatever the size. Idempotent; what is held by
// that name is left as it is.
func (s *Store) Hold(ctx context.Context, name string, base Base) error {
	unlock, err := s.locks.take(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, found, err := s.Held(ctx, name); err != nil || found {
		return err
	}
	r := record{Base: baseName(base), BaseFormat: base.Format}
	if base.Layer != "" {
		r = record{Layer: base.Layer}
	}
	// The record comes first, so that nobody removes what is below in between.
	if err := s.beginHold(name, r); err != nil {
		return err
	}
	if r.Base != "" {
		if err := s.pin(base); err != nil {
			return errors.Join(fmt.Errorf("pin %s: %w", base.Digest, err), s.Unhold(ctx, name))
		}
	}
	r.Made = true
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(s.holds(), name, r)
}

func (s *Store) beginHold(name string, r record) error {
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
	}
	earlier, _, err := s.read(s.holds(), name)
	if err != nil {
		return err
	}
	if err := s.write(s.holds(), name, r); err != nil {
		return err
	}
	return s.letGo(earlier.below())
}

// Held returns what is kept under a name; false if nothing is, or not yet.
func (s *Store) Held(_ context.Context, name string) (Held, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.holds(), name)
	if err != nil || !found || !r.Made {
		return Held{}, false, err
	}
	files, err := s.files(r)
	if err != nil && !errors.Is(err, ErrNoLayer) {
		return Held{}, false, err
	}
	files = files[1:] // the record has no file of its own
	held := Held{Lost: err != nil}
	if len(files) == 0 {
		return held, true, nil
	}
	held.Base = Base{Path: files[0].Path, Format: files[0].Format, Layer: r.Layer}
	if r.Base != "" {
		held.Digest = digestOf(r)
	} else if below, found, err := s.read(s.layers(), r.Layer); err == nil && found {
		held.VirtualBytes = below.VirtualBytes
	}
	for _, file := range files {
		bytes, err := ownBytes(file.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Held{}, false, err
		}
		held.Lost = held.Lost || err != nil
		held.OwnBytes += bytes
	}
	return held, true, nil
}

// Unhold ends the keeping of a content: it goes when nothing stands on it.
// Idempotent.
func (s *Store) Unhold(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.holds(), name)
	if err != nil || !found {
		return err
	}
	if err := s.erase(s.holds(), name); err != nil {
		return err
	}
	return s.letGo(r.below())
}

// HeldContent returns how to read a layer that is held; ErrNoLayer where there is
// none.
func (s *Store) HeldContent(ctx context.Context, name string) (Content, error) {
	s.mu.Lock()
	r, found, err := s.read(s.holds(), name)
	s.mu.Unlock()
	if err != nil {
		return Content{}, err
	}
	if !found || r.Layer == "" {
		return Content{}, fmt.Errorf("layer held as %s: %w", name, ErrNoLayer)
	}
	return s.LayerContent(ctx, r.Layer)
}

// LayerContent returns how to read a layer that nobody writes to any more;
// ErrNoLayer where there is none, ErrBusy where somebody still may.
func (s *Store) LayerContent(_ context.Context, name string) (Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.layers(), name)
	switch {
	case err != nil:
		return Content{}, err
	case !found:
		return Content{}, fmt.Errorf("layer %s: %w", name, ErrNoLayer)
	case r.Switching:
		return Content{}, fmt.Errorf("layer %s: %w", name, ErrBusy)
	}
	files, err := s.files(r)
	return Content{Files: files, VirtualBytes: r.VirtualBytes, Version: "layer " + name}, err
}
