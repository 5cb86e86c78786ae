package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	lastWordsLines = 10
	lastWordsBytes = 8 << 10
)

// An ExitError says that a child ended that nobody had asked to.
type ExitError struct {
	Name      string // of the program
	Cause     error  // how it ended: an *exec.ExitError, or what kept it from running
	Log       string // path
	LastWords string // the last lines of the log
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended: %v; the end of %s:\n%s", e.Name, e.Cause, e.Log, e.LastWords)
}

func (e *ExitError) Unwrap() error { return e.Cause }

var errExitZero = errors.New("exit status 0")

// A command says how to start a child.
type command struct {
	binary    string
	name      string // what the child is called by: its argument zero
	arguments []string
	log       string // path; the log of the run before is kept beside it
	namespace string // path of the network namespace to run in; empty for this process's own
}

// A process is a child that was started.
type process struct {
	command
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the child is gone and reaped; result is set then
	result error
	asked  atomic.Bool // whether its end was asked for
}

// startProcess starts a child that dies with this process. The child sees nothing of this process's environment (no proxies, no secrets) and is
// in a process group of its own, so that a Ctrl-C at the terminal reaches it only as an orderly stop.
func startProcess(c command) (*process, error) {
	log, err := openLog(c.log)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close() // the child has its own
	p := &process{command: c, ended: make(chan struct{})}
	p.cmd = &exec.Cmd{
		Path:        c.binary,
		Args:        append([]string{c.name}, c.arguments...),
		Env:         []string{"GOGC=50", "PATH=" + os.Getenv("PATH")}, // memory is dearer here than CPU; kube-proxy looks for nft
		Stdout:      log,
		Stderr:      log,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	}
	started := make(chan error)
	go onOwnThread(func() { p.supervise(started) })
	return p, <-started
}

// supervise starts the child and reaps it. It needs a thread of its own from start to end: the kernel sends Pdeathsig when the THREAD that
// forked exits, and any other thread may go at any time, with whatever locked goroutine the runtime lends it to next.
func (p *process) supervise(started chan<- error) {
	defer close(p.ended)
	err := p.begin()
	started <- err
	if err == nil {
		p.result = p.cmd.Wait()
	}
}

// begin starts the child in its namespace, which the thread then is in too.
func (p *process) begin() error {
	if p.namespace != "" {
		if err := enter(p.namespace); err != nil {
			return err
		}
	}
	return p.cmd.Start()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the child to end, kills it when the grace is over or ctx ends, and returns when it is gone. It tells whether it had to kill.
func (p *process) stop(ctx context.Context, grace time.Duration) (killed bool) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	p.asked.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if the child is gone, which is what is wanted
	select {
	case <-p.ended:
		return false
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return true
}

// unasked returns an *ExitError if the child, which has ended, did so of itself.
func (p *process) unasked() error {
	if p.asked.Load() {
		return nil
	}
	cause := p.result
	if cause == nil {
		cause = errExitZero
	}
	return &ExitError{Name: p.name, Cause: cause, Log: p.log, LastWords: p.lastWords()}
}

// lastWords returns the end of the child's log.
func (p *process) lastWords() string {
	end, err := readEnd(p.log, lastWordsBytes)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	lines := strings.Split(string(bytes.TrimSpace(end)), "\n")
	return strings.Join(lines[max(0, len(lines)-lastWordsLines):], "\n")
}

func readEnd(path string, size int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-size)
	return io.ReadAll(io.NewSectionReader(file, from, info.Size()-from))
}

// openLog starts a new log and keeps the former one beside it, so that logs don't grow with each start, yet the reason of a crash outlasts one.
func openLog(path string) (*os.File, error) {
	if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}
