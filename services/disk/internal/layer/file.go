package layer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"orlop.dev/kit/durable"
)

// partialSuffix marks a file that is not whole. It is never read, and removed
// at the next start.
const partialSuffix = ".partial"

// publish gives a whole file its name, durably, or removes it.
func publish(partial, path string) error {
	err := durable.Publish(partial, path)
	if err != nil && !errors.Is(err, durable.ErrUncertain) {
		return errors.Join(err, remove(partial))
	}
	return err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeFiles removes the files of a folder that are unwanted.
func removeFiles(folder string, unwanted func(name string) bool) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if unwanted(entry.Name()) {
			if err := remove(filepath.Join(folder, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func isPartial(name string) bool { return strings.HasSuffix(name, partialSuffix) }

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// blockBytes is the unit of stat(2).
const blockBytes = 512

// ownBytes is what a file takes on disk; holes cost nothing.
func ownBytes(path string) (int64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return stat.Blocks * blockBytes, nil
}

// QEMU locks single bytes of the files that it has open: from 100 on for what it
// does, from 200 on for what it lets nobody else do (block/file-posix.c).
const lockStart, lockLength = 100, 200

// inUse reports whether some process has locked the file as QEMU does.
func inUse(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: lockStart, Len: lockLength}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, err
	}
	return lock.Type != unix.F_UNLCK, nil
}
