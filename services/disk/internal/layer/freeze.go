package layer

import (
	"context"
	"errors"
	"fmt"

	"orlop.dev/kit/durable"
	"orlop.dev/services/disk/internal/qcow2"
)

// Freezing says what Freeze makes.
type Freezing struct {
	// Volume is what is frozen, Layer the name of what comes of it.
	Volume, Layer string
	// Keep holds the layer until Drop, even if nothing stands on it.
	Keep bool

	// open is a volume that a VM may write to while it is frozen.
	open bool
}

// Layer is a layer, or one that is to be.
type Layer struct {
	// Path is the volume's new file, VirtualBytes the size of the layer.
	Path         string
	VirtualBytes int64
	// Switching is a layer that a VM may still write to.
	Switching bool
	// Lost is a layer of which a file is gone.
	Lost bool
}

// Freeze makes the content of a volume that nobody has open, as it is now, a
// layer that never changes; the volume goes on in an empty file on top. It takes
// the same short time whatever the size. Idempotent by the layer's name.
func (s *Store) Freeze(ctx context.Context, f Freezing) error {
	unlock, err := s.alone(ctx, f.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.whole(f.Volume)
	if err != nil {
		return err
	}
	frozen, found, err := s.layer(f.Layer)
	if err != nil {
		return err
	}
	if !found {
		if err := errors.Join(r.settled(), s.free(r)); err != nil {
			return err
		}
		if frozen, _, err = s.split(f, r); err != nil {
			return err
		}
	}
	return s.end(f.Layer, frozen, false)
}

// BeginFreeze is the first half of Freeze, for a volume that a VM may have open:
// it returns the file that the VM is to write to from now on, which is there and
// shows the frozen one's content. Until EndFreeze nothing can be cloned from the
// layer, and nothing is lost whichever file the VM writes to. Idempotent by the
// layer's name.
func (s *Store) BeginFreeze(ctx context.Context, f Freezing) (Layer, error) {
	unlock, err := s.alone(ctx, f.Volume)
	if err != nil {
		return Layer{}, err
	}
	defer unlock()
	r, err := s.whole(f.Volume)
	if err != nil {
		return Layer{}, err
	}
	frozen, found, err := s.layer(f.Layer)
	if err != nil {
		return Layer{}, err
	}
	f.open = true
	if !found {
		if err := errors.Join(r.settled(), s.shallow(r)); err != nil {
			return Layer{}, err
		}
		if frozen, r, err = s.split(f, r); err != nil {
			return Layer{}, err
		}
	}
	return Layer{Path: s.filePath(r), VirtualBytes: frozen.VirtualBytes, Switching: frozen.Switching}, nil
}

// maxDepth is how many files a volume that is frozen may have: each slows down a
// guest a little, and QEMU opens all of them.
const maxDepth = 128

// shallow returns ErrDeep if a volume has too many files for one more.
func (s *Store) shallow(r record) error {
	s.mu.Lock()
	files, err := s.files(r)
	s.mu.Unlock()
	if err == nil && len(files) >= maxDepth {
		return fmt.Errorf("%d files: %w", len(files), ErrDeep)
	}
	return err
}

// EndFreeze ends what BeginFreeze began. switched says that the VM writes to the
// new file; otherwise nobody may have the old one open (ErrBusy). Idempotent.
func (s *Store) EndFreeze(ctx context.Context, volume, layer string, switched bool) error {
	unlock, err := s.locks.take(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	frozen, found, err := s.layer(layer)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("layer %s: %w", layer, ErrNoLayer)
	}
	return s.end(layer, frozen, switched)
}

func (s *Store) end(layer string, frozen record, switched bool) error {
	if !frozen.Switching {
		return nil
	}
	if !switched {
		// The VM has gone since: what it wrote to is frozen by that.
		if err := s.free(frozen); err != nil {
			return fmt.Errorf("layer %s: %w", layer, err)
		}
	}
	// The VM may have made it larger in between.
	size, err := qcow2.VirtualBytes(s.filePath(frozen))
	if err != nil {
		return err
	}
	frozen.VirtualBytes, frozen.Switching = size, false
	return s.writeLayer(layer, frozen)
}

// Layer tells of a layer; false if there is none.
func (s *Store) Layer(_ context.Context, layer string) (Layer, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.layers(), layer)
	if err != nil || !found {
		return Layer{}, false, err
	}
	f := Layer{Path: s.filePath(r), VirtualBytes: r.VirtualBytes, Switching: r.Switching}
	f.Lost, err = s.lost(r)
	return f, true, err
}

// split puts an empty file on top of a volume, and gives the one below to a new
// layer. A layer whose file is still the volume's own was never frozen.
func (s *Store) split(f Freezing, r record) (frozen, top record, err error) {
	frozen = r
	frozen.Made, frozen.Kept, frozen.Switching, frozen.Place = false, f.Keep, f.open, ""
	if err := s.writeLayer(f.Layer, frozen); err != nil {
		return frozen, top, err
	}
	top = record{VirtualBytes: r.VirtualBytes, File: newFile(f.Volume), Layer: f.Layer, Place: r.Place, Made: true}
	if err = s.createEmpty(top); err == nil {
		err = s.replace(f.Volume, top)
	}
	if err != nil && !errors.Is(err, durable.ErrUncertain) {
		err = errors.Join(err, s.unsplit(f.Layer, top))
	}
	return frozen, top, err
}

func (s *Store) unsplit(layer string, top record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(remove(s.filePath(top)), s.erase(s.layers(), layer))
}

func (s *Store) layer(id string) (record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read(s.layers(), id)
}

func (s *Store) writeLayer(id string, r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(s.layers(), id, r)
}

// Drop ends the keeping of a layer: it goes when nothing stands on it.
// Idempotent.
func (s *Store) Drop(_ context.Context, layer string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, found, err := s.read(s.layers(), layer)
	if err != nil || !found {
		return err
	}
	if r.Kept {
		r.Kept = false
		if err := s.write(s.layers(), layer, r); err != nil {
			return err
		}
	}
	return s.letGo(record{Layer: layer})
}

// Clone makes a volume on a frozen layer, at least as large. It takes the same
// short time whatever the size. Idempotent; a volume that is there is left as it
// is.
func (s *Store) Clone(ctx context.Context, id, layer string, virtualBytes int64) error {
	return s.make(ctx, id, record{VirtualBytes: virtualBytes, Layer: layer}, nil)
}

// Copy makes a volume with the content of another one that nobody has open, at
// least as large. It takes the same short time whatever the size. Idempotent; a
// volume that is there is left as it is.
func (s *Store) Copy(ctx context.Context, id, from string, virtualBytes int64) error {
	if _, made, err := s.Lookup(ctx, id); err != nil || made {
		return err
	}
	layer, err := s.LayerOf(ctx, from, "copy-"+id)
	if err != nil {
		return err
	}
	return s.Clone(ctx, id, layer, virtualBytes)
}

// LayerOf returns the layer that shows all of a volume that nobody has open: the
// one that it stands on, or a new one of that name where it was written to since.
// Nothing keeps the layer but the volume.
func (s *Store) LayerOf(ctx context.Context, volume, name string) (layer string, err error) {
	layer, found, err := s.below(ctx, volume)
	if err != nil || found {
		return layer, err
	}
	return name, s.Freeze(ctx, Freezing{Volume: volume, Layer: name})
}

// below is the layer that shows all of a volume that nobody has open: many
// copies of one volume don't make it deeper. False if it was written to.
func (s *Store) below(ctx context.Context, id string) (layer string, found bool, err error) {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil || r.Layer == "" {
		return "", false, err
	}
	if err := s.free(r); err != nil {
		return "", false, err
	}
	if frozen, _, err := s.layer(r.Layer); err != nil || frozen.VirtualBytes != r.VirtualBytes {
		return "", false, err
	}
	empty, err := s.plan(r, nil)
	if err != nil {
		return "", false, err
	}
	// The file was made without a free cluster: whatever is written makes it longer.
	file, err := fingerprint(s.filePath(r))
	return r.Layer, err == nil && file.bytes == empty.Bytes(), err
}
