// Package daemon starts orlopd, follows its start, and stops it.
//
// It knows the process by the lock on the state folder. It must not know what
// the daemon does.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/facade/home"
)

const (
	interval = 100 * time.Millisecond
	// maxLogBytes is the size from which a start begins a new log.
	maxLogBytes = 10 << 20
)

// ErrGone says that the daemon went away.
var ErrGone = errors.New("orlopd ended")

// FailedError is a start that failed, in the daemon's own words.
type FailedError struct {
	Reason string
	Log    string
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("orlopd could not start: %s (log: %s)", e.Reason, e.Log)
}

// Process is a daemon: one that was started here, or one that was found.
type Process struct {
	PID   int
	home  home.Home
	ended <-chan error // of a child; nil for one that was found
}

// Find returns the daemon that has the folder, or nil.
func Find(h home.Home) (*Process, error) {
	pid, err := h.Owner()
	if err != nil || pid == 0 {
		return nil, err
	}
	return &Process{PID: pid, home: h}, nil
}

// Start starts a daemon that outlives this process and its terminal. It doesn't
// wait until it is ready: Follow does.
func Start(h home.Home, binary string, arguments []string) (*Process, error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	log, err := openLog(h.DaemonLog())
	if err != nil {
		return nil, err
	}
	defer log.Close() // the daemon has its own
	command := exec.Command(binary, arguments...)
	command.Stdout, command.Stderr = log, log
	command.Dir = string(h)
	command.Env = append(os.Environ(), home.Variable+"="+string(h))
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }() // ends with the daemon or with this process
	return &Process{PID: command.Process.Pid, home: h, ended: ended}, nil
}

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// Binary finds orlopd beside this program, else in PATH.
func Binary() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "orlopd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("orlopd")
	if err != nil {
		return "", fmt.Errorf("%w: make build builds it", err)
	}
	return path, nil
}

// Follow shows each step of the start when it is done, and returns when the
// daemon is ready. The error is a *[FailedError], [ErrGone], or ctx's.
func (p *Process) Follow(ctx context.Context, show func(home.Step)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for shown := 0; ; {
		status, err := p.status()
		if err != nil {
			return err
		}
		for ; shown < len(status.Steps) && status.Steps[shown].Done; shown++ {
			show(status.Steps[shown])
		}
		switch status.Phase {
		case home.Ready:
			return nil
		case home.Failed:
			return &FailedError{Reason: status.Error, Log: p.home.DaemonLog()}
		case home.Stopping, home.Stopped:
			return ErrGone
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case exit := <-p.ended:
			return p.lastWords(exit)
		case <-tick.C:
		}
	}
}

// status is what this daemon has told so far; what another one left is nothing.
func (p *Process) status() (home.Status, error) {
	status, err := p.home.ReadStatus()
	if errors.Is(err, fs.ErrNotExist) || err == nil && status.PID != p.PID {
		return home.Status{}, nil
	}
	return status, err
}

// lastWords is why a child ended that didn't become ready. What the system says
// of it matters where something killed it.
func (p *Process) lastWords(exit error) error {
	status, err := p.status()
	if err == nil && status.Error != "" {
		return &FailedError{Reason: status.Error, Log: p.home.DaemonLog()}
	}
	if exit != nil {
		return fmt.Errorf("%w before it was ready (%w): see the end of %s", ErrGone, exit, p.home.DaemonLog())
	}
	return fmt.Errorf("%w before it was ready: see the end of %s", ErrGone, p.home.DaemonLog())
}

// Stop asks the daemon to end and returns when it has. When ctx ends first, the
// daemon goes on ending.
func (p *Process) Stop(ctx context.Context) error {
	handle, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(handle)
	// Only now is it certain that the number is still the daemon's.
	if pid, err := p.home.Owner(); err != nil || pid != p.PID {
		return err
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(interval.Milliseconds()))
		if n == 1 && err == nil {
			return nil
		}
	}
	return fmt.Errorf("process %d is still stopping: %w", p.PID, ctx.Err())
}
