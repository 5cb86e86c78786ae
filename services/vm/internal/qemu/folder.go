package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"orlop.dev/kit/durable"
)

// Names inside the run folder that the daemon writes.
const (
	recordFile = "machine.json"
	endingFile = "ending.json"
	lockFile   = "lock"
	logFile    = "qemu.log"
	// startedFile is there once the guest was let go: from then on a process
	// that doesn't answer may be a guest that works.
	startedFile = "started"
)

// ErrNotFound is a machine of which nothing is recorded.
var ErrNotFound = errors.New("no such machine")

// folder is one machine's run folder.
type folder string

// record is what the daemon knows of a machine that it may find again.
type record struct {
	Machine Machine
	// BootID is the host's, from when the machine was started.
	BootID string
	// Attempt names the migration that the process was made for, as its target;
	// empty for one that was started.
	Attempt string `json:",omitempty"`
	// Copies are the files of such a target that its disks are copied into.
	Copies []Copy `json:",omitempty"`
	// Memory is the file of the saved memory that the process was made for; empty
	// for one that boots.
	Memory string `json:",omitempty"`
}

func (f folder) name() string { return filepath.Base(string(f)) }

func (f folder) exists() bool {
	_, err := os.Stat(string(f))
	return err == nil
}

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// write replaces a file in one step: after a crash there is the old one or the
// new one.
func (f folder) write(name string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path(name), append(content, '\n'), 0o600)
}

func (f folder) read(name string, value any) error {
	content, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, value); err != nil {
		return fmt.Errorf("%s: %w", f.path(name), err)
	}
	return nil
}

func (f folder) mark(name string) error {
	file, err := os.OpenFile(f.path(name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

func (f folder) has(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

func (f folder) record() (record, error) {
	var r record
	err := f.read(recordFile, &r)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, fmt.Errorf("%w: %s", ErrNotFound, f.name())
	}
	return r, err
}

// acquire takes the lock that the machine's process holds from its first moment
// to its last, or gives nil if there is such a process. The kernel drops the
// lock with the process, whatever became of it, so that this tells dead from
// alive without process numbers, which are used again. The process gets the
// open file; closing it here then leaves the lock with the process alone.
func (f folder) acquire() (*os.File, error) { return lock(f.path(lockFile)) }

// lock takes the lock on a file, made if missing, or gives nil if it is taken.
func lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// A lock of the open file (fcntl(2), OFD), not of the process: it passes to
	// the child with the file, and can be looked at without being taken.
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, wholeFile())
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
}

// alive tells whether a process of this machine exists, answering or not.
func (f folder) alive() (bool, error) {
	file, err := os.OpenFile(f.path(lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	holder := wholeFile()
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, holder); err != nil {
		return false, &fs.PathError{Op: "lock", Path: f.path(lockFile), Err: err}
	}
	return holder.Type != unix.F_UNLCK, nil
}

func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart} }

// dial connects to a socket in the folder. The detour over /proc keeps the
// address short: a unix socket's path has 108 bytes, a run folder's may be longer.
func (f folder) dial(ctx context.Context, socket string) (net.Conn, error) {
	fd, err := unix.Open(string(f), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: string(f), Err: err}
	}
	defer unix.Close(fd)
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", fd, socket))
}

// bootID names the host's current boot.
func bootID() (string, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content)), err
}
