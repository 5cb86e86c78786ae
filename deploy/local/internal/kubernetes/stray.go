package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A stray is a child that outlived the process that started it. The kernel ends the children of a killed parent, but not at the same instant,
// so one that starts again at once may still find them on the port.
//
// Strays are found by what they run, in /proc, and not by a file of process ids: such a file isn't there yet when a parent dies just after
// starting a child, and it names strangers when ids are used again.

const (
	strayTimeout  = 10 * time.Second
	strayInterval = 10 * time.Millisecond
)

// markers are, by argument zero, the arguments that only a process of this folder has.
func markers(dir folder) map[string]string {
	return map[string]string{
		apiserverName:         apiserverMarker(dir),
		controllerManagerName: controllerManagerMarker(dir),
	}
}

// endStrays kills the folder's strays and waits until they are gone. Nothing is lost: their state is in etcd. The caller holds the folder's
// lock, so nobody can be at work with what is found.
func endStrays(ctx context.Context, binary string, markers map[string]string, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, strayTimeout)
	defer cancel()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := endStray(ctx, pid, binary, markers, logger); err != nil {
			return err
		}
	}
	return nil
}

// endStray kills a process if it is a stray. The handle is taken before the look, so that the id can't become a stranger's in between.
func endStray(ctx context.Context, pid int, binary string, markers map[string]string, logger *slog.Logger) error {
	handle, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer handle.Release()
	if !isStray(pid, binary, markers) {
		return nil
	}
	logger.Warn("ending a process that an earlier run left behind", "pid", pid)
	tick := time.NewTicker(strayInterval)
	defer tick.Stop()
	for isStray(pid, binary, markers) {
		_ = handle.Signal(syscall.SIGKILL) // fails if it has just gone
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d doesn't go: %w", pid, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// isStray tells whether a process runs this binary (by its file name: it may have been replaced or moved since) under a name and with an
// argument that only a process of the folder has. What is gone, or can't be read because it is somebody else's, isn't one.
func isStray(pid int, binary string, markers map[string]string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	content, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return false
	}
	arguments := strings.Split(string(content), "\x00")
	marker, named := markers[arguments[0]]
	if !named || !slices.Contains(arguments[1:], marker) {
		return false
	}
	executable, err := os.Readlink(filepath.Join(proc, "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(executable, " (deleted)")) == binary
}
