// Package durable replaces files so that a crash, at any point, leaves the old
// content or the new one.
//
// It owns the order of the steps: the file, its name, its folder. It must not know
// what is in the files.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// temporary is what the name of a file ends in that isn't whole yet.
const temporary = ".new"

// ErrUncertain is a file that has its name, but a crash may still take that away:
// neither it nor what it replaces may be removed.
var ErrUncertain = errors.New("the change may not outlive a crash")

// WriteFile replaces a file. It is durable when that returns. Two calls for the
// same file must not overlap; what a call that was killed has left, the next one
// takes over.
func WriteFile(path string, content []byte, mode os.FileMode) error {
	if err := writeSynced(path+temporary, content, mode); err != nil {
		return errors.Join(err, remove(path+temporary))
	}
	return rename(path+temporary, path)
}

// Publish gives a whole file its name, of the same folder, in place of what has
// it. It is durable when that returns. With ErrUncertain it has the name, with
// other errors not.
func Publish(file, path string) error {
	if err := syncPath(file); err != nil {
		return err
	}
	return rename(file, path)
}

// Remove removes a file, and what a WriteFile that was cut short has left of it.
// It is no error if there is none.
func Remove(path string) error {
	return errors.Join(remove(path), remove(path+temporary))
}

// SyncDir makes durable which files are in a folder.
func SyncDir(path string) error { return syncPath(path) }

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return errors.Join(ErrUncertain, err)
	}
	return nil
}

func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

func writeSynced(path string, content []byte, mode os.FileMode) error {
	// What is there may be of a killed process, with another mode.
	if err := remove(path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = errors.Join(file.Chmod(mode), file.Sync()) // the umask may have taken some of it
	}
	return errors.Join(err, file.Close())
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
