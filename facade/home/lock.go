package home

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InUseError says that a daemon has the state folder.
type InUseError struct {
	Home Home
	PID  int
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by process %d", e.Home, e.PID)
}

// Lock makes the caller the folder's daemon until it closes the lock or dies.
// The error is an *[InUseError] while another process is.
func (h Home) Lock() (io.Closer, error) {
	file, err := os.OpenFile(h.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		pid, ownerErr := h.Owner()
		return nil, errors.Join(&InUseError{Home: h, PID: pid}, ownerErr, file.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	return file, nil
}

// Owner returns the process that has the folder, as the kernel knows it, or 0:
// no number in a file, which might be another process's by now. A process that
// holds the lock itself must not ask: closing the file would end its lock.
func (h Home) Owner() (pid int, err error) {
	file, err := os.OpenFile(h.lockFile(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("ask who holds %s: %w", file.Name(), err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

func (h Home) lockFile() string { return filepath.Join(h.Run(), "lock") }
