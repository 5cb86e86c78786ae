// Package jail runs QEMU's tools over disks, whose content guests wrote: with no
// network, no environment, bounded memory and files, and no longer than who asked
// for it lives.
//
// It owns the processes. It must not know what a tool does. A tool still runs as
// this process's user and sees its files, which are the disks.
package jail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of a tool. It reads files that were checked or that we wrote; the
// limits are for the day when that isn't enough.
const (
	maxMemoryBytes = 8 << 30
	maxOpenFiles   = 1024
	maxWords       = 4 << 10 // of a tool's complaints
)

// limiter sets limits before the tool's first instruction (util-linux).
const limiter = "prlimit"

// Options say how a tool runs.
type Options struct {
	// Idle is for work that runs when nothing else wants the processor or the disk.
	Idle bool
	// Writes is for a tool that changes files; others can't make any longer.
	Writes bool
	// Inherited becomes the tool's descriptor 3, unless it is nil. The caller
	// closes it.
	Inherited *os.File
}

// Process is a tool at work. It dies with its context, and with us.
type Process struct {
	// Out is what the tool prints.
	Out  io.ReadCloser
	done chan struct{}
	err  error // once done
}

// Error is a tool that failed.
type Error struct {
	// Tool is its name, Words what it said.
	Tool, Words string
	// Err says how it ended.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v: %s", e.Tool, e.Err, e.Words) }

// Unwrap returns how the tool ended.
func (e *Error) Unwrap() error { return e.Err }

// Check says why tools run without namespaces of their own here; nil where they
// have them.
func Check(ctx context.Context) error {
	p, err := start(ctx, Options{}, namespaces(), "true", nil)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Start runs a tool, without namespaces where the machine allows none (see Check).
// Wait must be called.
func Start(ctx context.Context, o Options, tool string, args ...string) (*Process, error) {
	p, err := start(ctx, o, namespaces(), tool, args)
	if refused(err) {
		p, err = start(ctx, o, nil, tool, args)
	}
	return p, err
}

// Run runs a tool to its end. What it prints is dropped.
func Run(ctx context.Context, o Options, tool string, args ...string) error {
	p, err := Start(ctx, o, tool, args...)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, p.Out)
	return errors.Join(p.Wait(), err)
}

func start(ctx context.Context, o Options, attributes *syscall.SysProcAttr, tool string, args []string) (*Process, error) {
	if attributes == nil {
		attributes = &syscall.SysProcAttr{}
	}
	attributes.Pdeathsig, attributes.Setpgid = syscall.SIGKILL, true
	command := exec.CommandContext(ctx, limiter, append(o.limits(), append([]string{tool}, args...)...)...)
	complaints := &head{}
	command.Stderr, command.SysProcAttr = complaints, attributes
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if o.Inherited != nil {
		command.ExtraFiles = []*os.File{o.Inherited}
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	command.Stdout = in
	p := &Process{Out: out, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		// The kernel's "parent" of Pdeathsig is the thread, which must outlive it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		_ = in.Close()
		started <- err
		if err != nil {
			return
		}
		if o.Idle {
			Yield(command.Process.Pid)
		}
		if err := command.Wait(); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			p.err = &Error{Tool: tool, Words: complaints.String(), Err: err}
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return p, nil
}

// Wait returns how the tool ended, after it has.
func (p *Process) Wait() error {
	_ = p.Out.Close()
	<-p.done
	return p.err
}

// limits are the limiter's arguments.
func (o Options) limits() []string {
	limits := []string{
		"--as=" + strconv.Itoa(maxMemoryBytes), "--nofile=" + strconv.Itoa(maxOpenFiles), "--core=0",
	}
	if !o.Writes {
		limits = append(limits, "--fsize=0")
	}
	return append(limits, "--")
}

// namespaces are those of a process that reaches no network and no other
// process's memory. Whoever isn't root needs one of users for that.
func namespaces() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	return a
}

// refused reports a machine that gives this process no namespaces.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL)
}

// Yield gives a process, or a thread, the least priority: nice 19, and the disk
// only when nobody else wants it (ioprio_set(2)). 0 is the calling thread.
// Best effort.
func Yield(pid int) {
	const lowest, whoProcess, classIdle, classShift = 19, 1, 3, 13
	_ = unix.Setpriority(unix.PRIO_PROCESS, pid, lowest)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), classIdle<<classShift)
}

// head keeps the first words.
type head struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(b[:min(len(b), maxWords-min(maxWords, h.text.Len()))])
	return len(b), nil
}

// String returns them.
func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(h.text.String())
}
