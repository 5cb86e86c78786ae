package layer

import (
	"context"
	"fmt"
	"path/filepath"

	"orlop.dev/services/disk/internal/chain"
)

// Content is a volume to be read.
type Content struct {
	// Files are its files, the top first.
	Files        chain.Chain
	VirtualBytes int64
	// Version is another one after every write.
	Version string
}

// Content returns how to read a volume that is there. Nobody may write to it
// meanwhile: that is the caller's to see to.
func (s *Store) Content(_ context.Context, id string) (Content, error) {
	r, err := s.whole(id)
	if err != nil {
		return Content{}, err
	}
	s.mu.Lock()
	files, err := s.files(r)
	s.mu.Unlock()
	if err != nil {
		return Content{}, err
	}
	top, err := fingerprint(files[0].Path)
	if err != nil {
		return Content{}, err
	}
	version := fmt.Sprintf("%s-%d-%d-%d.%09d", filepath.Base(files[0].Path), r.VirtualBytes, top.bytes, top.changed.Sec, top.changed.Nsec)
	return Content{Files: files, VirtualBytes: r.VirtualBytes, Version: version}, nil
}
