package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

const blockBytes = 512 // the unit of stat(2)

// usage is what a folder takes on disk: holes cost nothing, and a file with two
// names counts once.
func usage(dir string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[stat.Ino] {
			return nil
		}
		seen[stat.Ino] = true
		total += stat.Blocks * blockBytes
		return nil
	})
	return total, err
}

// ignoreMissing: files come and go while one looks.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
