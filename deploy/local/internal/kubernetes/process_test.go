package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestProcessThatEndsUnaskedSaysItsLastWords(t *testing.T) {
	child := shell(t, filepath.Join(t.TempDir(), "log"), "for line in $(seq 12); do echo line $line; done; exit 7")
	<-child.ended
	var exit *ExitError
	if !errors.As(child.unasked(), &exit) {
		t.Fatalf("got %v, want an ExitError", child.unasked())
	}
	var status *exec.ExitError
	if !errors.As(exit, &status) || status.ExitCode() != 7 {
		t.Errorf("the cause is %v, want exit code 7", exit.Cause)
	}
	if lines := strings.Split(exit.LastWords, "\n"); len(lines) != lastWordsLines || lines[len(lines)-1] != "line 12" {
		t.Errorf("the last words are %q, want %d lines up to line 12", exit.LastWords, lastWordsLines)
	}
}

func TestProcessThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	_, err := startProcess(command{binary: filepath.Join(dir, "none"), name: "none", log: filepath.Join(dir, "log")})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}

func TestProcessStop(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	cases := map[string]struct {
		ctx    context.Context
		script string
		grace  time.Duration
		killed bool
	}{
		"one that obeys ends by itself":               {t.Context(), "echo up; read wait", time.Minute, false},
		"one that doesn't is killed after the grace":  {t.Context(), "trap '' TERM; echo up; while :; do read wait; done", time.Millisecond, true},
		"one that doesn't is killed with the context": {over, "trap '' TERM; echo up; while :; do read wait; done", time.Hour, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			child := shell(t, filepath.Join(t.TempDir(), "log"), c.script)
			eventually(t, "the child is up", func(context.Context) (bool, error) { return child.lastWords() == "up", nil })
			if killed := child.stop(c.ctx, c.grace); killed != c.killed {
				t.Errorf("killed: %v, want %v", killed, c.killed)
			}
			if alive(child.pid()) {
				t.Error("the child is still there")
			}
			if err := child.unasked(); err != nil {
				t.Errorf("an end that was asked for is an error: %v", err)
			}
			child.stop(c.ctx, c.grace) // again: nothing
		})
	}
}

func TestProcessSeesNothingOfOurEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.test")
	child := shell(t, filepath.Join(t.TempDir(), "log"), "echo ${HTTPS_PROXY-none} $GOGC")
	<-child.ended
	if got := child.lastWords(); got != "none 50" {
		t.Errorf("the child says %q", got)
	}
}

func TestProcessKeepsTheLogOfTheRunBefore(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for run := range 3 {
		<-shell(t, log, fmt.Sprint("echo run ", run)).ended
	}
	for path, want := range map[string]string{log: "run 2\n", log + ".old": "run 1\n"} {
		if content, err := os.ReadFile(path); err != nil || string(content) != want {
			t.Errorf("%s holds %q (%v), want %q", filepath.Base(path), content, err, want)
		}
	}
}

// shell runs a script as a child whose input never ends.
func shell(t *testing.T, log, script string) *process {
	t.Helper()
	dir := t.TempDir()
	endless := filepath.Join(dir, "input")
	check(t, syscall.Mkfifo(endless, 0o600))
	child, err := startProcess(command{binary: "/bin/sh", name: "sh", arguments: []string{"-c", "exec <>" + endless + "; " + script}, log: log})
	check(t, err)
	t.Cleanup(func() {
		_ = child.cmd.Process.Kill()
		<-child.ended
	})
	return child
}
