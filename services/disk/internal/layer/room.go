package layer

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Room is what the file system has and what was promised of it, in bytes.
type Room struct {
	// Free is what can still be written.
	Free int64
	// Promised is what the volumes can still grow by, all together.
	Promised int64
}

// Fits reports whether all volumes and extra bytes more could be filled with
// factor times the free space. A factor of 1 never promises what isn't there.
func (r Room) Fits(extra int64, factor float64) bool {
	return float64(r.Promised+extra) <= float64(r.Free)*factor
}

// Room looks at the file system and all volumes.
func (s *Store) Room(context.Context) (Room, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stat unix.Statfs_t
	if err := unix.Statfs(s.dir, &stat); err != nil {
		return Room{}, &fs.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	g, err := s.load()
	if err != nil {
		return Room{}, err
	}
	room := Room{Free: int64(stat.Bavail) * stat.Bsize}
	for _, r := range g.volumes {
		own, err := ownBytes(s.filePath(r))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Room{}, err
		}
		room.Promised += max(0, r.VirtualBytes-own)
	}
	return room, nil
}
