package layer

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
		return syncFolder(s.bases())
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EPERM):
		s.logger.Warn("the image can't be linked and is copied: put disks and DVCR on one file system",
			"digest", base.Digest, "error", err)
		return copyFile(base.Path, target)
	}
	return err
}

// unpin removes a base that no volume stands on. The caller holds mu.
func (s *Store) unpin(name string) error {
	if name == "" {
		return nil
	}
	count, err := s.users(name)
	if err != nil || count > 0 {
		return err
	}
	return remove(filepath.Join(s.bases(), name))
}

// collect removes bases that no volume stands on: a killed process leaves them.
func (s *Store) collect() error {
	entries, err := os.ReadDir(s.bases())
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, entry := range entries {
		if err := s.unpin(entry.Name()); err != nil {
			return err
		}
	}
	return nil
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
