package layer

import (
	"context"
	"errors"
	"fmt"

	"orlop.dev/kit/durable"
	"orlop.dev/services/disk/internal/qcow2"
)

// markSuffix is that of the file that says that a guest has written to a copy.
const markSuffix = ".live"

// Mirror is a copy of a volume in the making: whoever runs with the volume fills
// it, and then goes on with it alone.
type Mirror struct {
	// Path of the file; Mark that of another one, which is made, durably, before a
	// guest writes to the copy and no longer to the volume.
	Path, Mark string
	// Place is where the volume is to be, in the caller's words.
	Place string
}

func (s *Store) mirrorOf(r record) Mirror {
	if r.Mirror == "" {
		return Mirror{}
	}
	path := s.filePath(record{File: r.Mirror})
	return Mirror{Path: path, Mark: path + markSuffix, Place: r.MirrorPlace}
}

// settled returns ErrBusy while a volume is copied elsewhere: until it is known
// which of the two files is the volume's, nothing can stand on either.
func (r record) settled() error {
	if r.Mirror != "" {
		return fmt.Errorf("%s is copied to %s: %w", r.File, r.MirrorPlace, ErrBusy)
	}
	return nil
}

// BeginMirror makes an empty file beside a volume, as large, that stands on
// nothing: the volume's copy in another place, once somebody has filled it.
// Idempotent. ErrBusy where the volume is frozen now, or copied to another place.
func (s *Store) BeginMirror(ctx context.Context, id, place string) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil || r.Mirror != "" && r.MirrorPlace == place {
		return err
	}
	if err := r.settled(); err != nil {
		return err
	}
	below, _, err := s.layer(r.Layer)
	if err != nil {
		return err
	}
	if below.Switching {
		return fmt.Errorf("layer %s: %w", r.Layer, ErrBusy)
	}
	size, err := qcow2.VirtualBytes(s.filePath(r)) // a VM may have made it larger
	if err != nil {
		return err
	}
	r.Mirror, r.MirrorPlace = newFile(id), place
	copied := record{VirtualBytes: size, File: r.Mirror}
	if err := s.createEmpty(copied); err != nil {
		return err
	}
	if err := s.replace(id, r); err != nil {
		if !errors.Is(err, durable.ErrUncertain) {
			err = errors.Join(err, remove(s.filePath(copied)))
		}
		return err
	}
	return nil
}

// EndMirror ends a copying: a copy that a guest has written to is the volume from
// now on, any other one goes. Nobody may have the other file open (ErrBusy).
// Idempotent.
func (s *Store) EndMirror(ctx context.Context, id string) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.whole(id)
	if err != nil || r.Mirror == "" {
		return err
	}
	kept, gone, err := s.choose(r)
	if err != nil {
		return err
	}
	if there, err := exists(s.filePath(gone)); err != nil {
		return err
	} else if there {
		if err := s.free(gone); err != nil {
			return err
		}
	}
	if err := s.replace(id, kept); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The volume is what it is whatever comes of the other file.
	if err := errors.Join(remove(s.mirrorOf(r).Mark), remove(s.filePath(gone)), s.letGo(gone.below())); err != nil {
		s.logger.WarnContext(ctx, "files of a volume that was copied stay until the next start", "volume", id, "error", err)
	}
	return nil
}

// choose says what the volume is from now on, and what goes.
func (s *Store) choose(r record) (kept, gone record, err error) {
	mirror := s.mirrorOf(r)
	live, err := exists(mirror.Mark)
	if err != nil {
		return kept, gone, err
	}
	if !live {
		kept = r
		kept.Mirror, kept.MirrorPlace = "", ""
		return kept, record{File: r.Mirror}, nil
	}
	kept = record{File: r.Mirror, Place: r.MirrorPlace, Made: true}
	gone = r.below()
	gone.File = r.File
	kept.VirtualBytes, err = qcow2.VirtualBytes(mirror.Path)
	return kept, gone, err
}

// endMirrors ends the copyings of volumes whose guests write to the copies, and
// whose end was not seen.
func (s *Store) endMirrors() error {
	s.mu.Lock()
	volumes, err := s.all(s.volumes())
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for id, r := range volumes {
		if r.Mirror == "" {
			continue
		}
		live, err := exists(s.mirrorOf(r).Mark)
		if err == nil && live {
			err = s.EndMirror(context.Background(), id)
		}
		if err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
	}
	return nil
}
