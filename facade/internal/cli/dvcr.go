package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
)

// dvcrView is how full the registry of images is.
type dvcrView struct {
	// Images counts tags: what users have, and disks on their way.
	Images int `json:"images"`
	// UsedBytes are those of the registry on disk. A blob that disks stand on, too,
	// is in it.
	UsedBytes int64 `json:"usedBytes"`
	// FreeBytes are those that its file system has left.
	FreeBytes int64 `json:"freeBytes"`
}

// lookAtDVCR reads the registry's folder, so it works without a daemon.
func lookAtDVCR(dir string) (dvcrView, error) {
	var v dvcrView
	var err error
	if v.UsedBytes, err = usage(dir); err != nil {
		return v, err
	}
	if v.Images, err = tags(dir); err != nil {
		return v, err
	}
	v.FreeBytes, err = freeBytes(dir)
	return v, err
}

// tags counts the images of a registry of the CNCF distribution by the files
// that name the manifest of each tag.
func tags(dir string) (int, error) {
	count := 0
	root := filepath.Join(dir, "registry", "docker", "registry", "v2", "repositories")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return ignoreMissing(err)
		case entry.IsDir() && (entry.Name() == "_layers" || entry.Name() == "_uploads" || entry.Name() == "revisions"):
			return fs.SkipDir
		case strings.HasSuffix(path, "/current/link"):
			count++
		}
		return nil
	})
	return count, err
}

// freeBytes are what users other than root may still write; those of the nearest
// folder that exists.
func freeBytes(dir string) (int64, error) {
	var stat syscall.Statfs_t
	err := syscall.Statfs(dir, &stat)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		return freeBytes(filepath.Dir(dir))
	}
	if err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}
