package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// poll is how often something is looked for that nobody announces.
const poll = 10 * time.Millisecond

// StartError is a QEMU that ended, or didn't answer, before its guest ran.
type StartError struct {
	// Stderr is the last lines that QEMU wrote, for people.
	Stderr string
	Err    error
}

func (e *StartError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("start QEMU: %v", e.Err)
	}
	return fmt.Sprintf("start QEMU: %v: %s", e.Err, e.Stderr)
}

func (e *StartError) Unwrap() error { return e.Err }

// launch starts the machine's process, which holds the lock from here on, and
// gives a channel with its exit status. The process is detached (setsid):
// no signal to the daemon's group, and no end of the daemon, reaches it.
func (e *Engine) launch(f folder, lock *os.File, r record, chains Chains) (<-chan error, error) {
	defer lock.Close()
	output, err := os.OpenFile(f.path(logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	m := r.Machine
	line, err := e.startTPM(f, lock, m)
	if err != nil {
		return nil, err
	}
	if line != nil {
		defer line.Close()
	}
	command := []string{e.host.Binary}
	if r.Attempt != "" {
		m = m.arriving()
	}
	if r.Attempt != "" || r.Memory != "" {
		command = append(command, "-incoming", "defer")
	}
	command = append(command, Args(m, e.host, chains)...)
	if m.Network.Namespace != "" {
		// nsenter becomes QEMU: there is no process between.
		command = append([]string{"nsenter", "--net=" + namespacePath(m.Network.Namespace), "--"}, command...)
	}
	process := exec.Command(command[0], command[1:]...)
	process.Dir = string(f)
	process.Stdout, process.Stderr = output, output
	process.ExtraFiles = []*os.File{lockFD - 3: lock}
	if line != nil {
		process.ExtraFiles = append(process.ExtraFiles, line)
	}
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := process.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	// This ends with QEMU. It is not waited for when the engine closes, since
	// QEMU goes on; init then reaps it.
	go func() { exited <- process.Wait() }()
	return exited, nil
}

// clear removes what an earlier process of the same machine left. The caller
// holds the lock, so there is no such process any more.
func (f folder) clear() error {
	var failed error
	for _, name := range []string{qmpSocket, agentSocket, serialSocket, screenSocket, incomingSocket, endingFile, startedFile, moveFile, owedFile, savingFile, clockFile} {
		failed = errors.Join(failed, f.remove(name))
	}
	return failed
}

func (f folder) remove(name string) error {
	if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func namespacePath(namespace string) string {
	if filepath.IsAbs(namespace) {
		return namespace
	}
	return filepath.Join("/run/netns", namespace)
}

// await connects to a process that was just launched, until it exits or the
// context ends.
func (e *Engine) await(ctx context.Context, f folder, m Machine, exited <-chan error) (*Process, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		p, err := e.attach(ctx, f, m)
		if err == nil {
			return p, nil
		}
		select {
		case status := <-exited:
			return nil, &StartError{Stderr: f.lastWords(), Err: exitReason(status)}
		case <-ctx.Done():
			return nil, &StartError{Stderr: f.lastWords(), Err: errors.Join(context.Cause(ctx), err)}
		case <-tick.C:
		}
	}
}

func exitReason(status error) error {
	if status == nil {
		return errors.New("it ended at once")
	}
	return fmt.Errorf("it ended: %w", status)
}

// lastWords gives the end of QEMU's own output.
func (f folder) lastWords() string {
	const enough = 4 << 10
	file, err := os.Open(f.path(logFile))
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	tail := make([]byte, min(info.Size(), enough))
	n, _ := file.ReadAt(tail, info.Size()-int64(len(tail)))
	return lastLines(string(tail[:n]))
}

// lastLines keeps the last three lines, in one.
func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
