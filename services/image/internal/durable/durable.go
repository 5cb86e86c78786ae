// Package durable writes small files so that a crash, at any point, leaves the old
// content or the new one.
//
// It owns the order of the steps. It must not know what is in the files.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// temporary is what the name of a file ends in that isn't whole yet.
const temporary = ".new"

// WriteFile replaces a file, readable by its owner only. It is durable when that
// returns. Two calls for the same file must not overlap.
func WriteFile(path string, content []byte) error {
	if err := writeSynced(path+temporary, content); err != nil {
		return errors.Join(err, remove(path+temporary))
	}
	if err := os.Rename(path+temporary, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Remove removes a file, and what a WriteFile that was cut short has left of it.
// It is no error if there is none.
func Remove(path string) error {
	return errors.Join(remove(path), remove(path+temporary))
}

// SyncDir makes durable which files are in a folder.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeSynced(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
