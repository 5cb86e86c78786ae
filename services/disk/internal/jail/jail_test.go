package jail_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/services/disk/internal/jail"
)

// say runs a shell's script in the jail, and returns what it prints.
func say(t *testing.T, o jail.Options, script string) (string, error) {
	t.Helper()
	p, err := jail.Start(t.Context(), o, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(p.Out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), p.Wait()
}

func needsNamespaces(t *testing.T) {
	t.Helper()
	if err := jail.Check(t.Context()); err != nil {
		t.Skipf("this machine allows no namespaces: %v", err)
	}
}

func TestToolSeesNoNetworkButItsOwn(t *testing.T) {
	needsNamespaces(t)
	text, err := say(t, jail.Options{}, "cat /proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for line := range strings.Lines(text) {
		if name, _, isDevice := strings.Cut(line, ":"); isDevice && strings.TrimSpace(name) != "lo" {
			devices = append(devices, strings.TrimSpace(name))
		}
	}
	if len(devices) > 0 {
		t.Errorf("it sees %v", devices)
	}
}

func TestToolKnowsNothingOfOurEnvironment(t *testing.T) {
	t.Setenv("ORLOP_SECRET", "hidden")
	text, err := say(t, jail.Options{}, "env")
	if err != nil || strings.Contains(text, "ORLOP_SECRET") || !strings.Contains(text, "PATH=") {
		t.Errorf("it has %q, %v", text, err)
	}
}

func TestToolHasLimits(t *testing.T) {
	for flag, want := range map[string]string{"n": "1024", "c": "0", "v": strconv.Itoa(8 << 20), "f": "0"} {
		if text, err := say(t, jail.Options{}, "ulimit -"+flag); err != nil || strings.TrimSpace(text) != want {
			t.Errorf("ulimit -%s is %q, %v, want %s", flag, text, err, want)
		}
	}
}

func TestOnlyAToolThatWritesMakesFilesLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := "printf content > " + path
	if _, err := say(t, jail.Options{}, write); err == nil {
		t.Error("a tool that reads wrote")
	}
	if _, err := say(t, jail.Options{Writes: true}, write); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "content" {
		t.Errorf("the file has %q, %v", text, err)
	}
}

func TestFailureSaysWhatTheToolSaid(t *testing.T) {
	err := jail.Run(t.Context(), jail.Options{}, "sh", "-c", "echo no such disk >&2; exit 3")
	failed := new(jail.Error)
	exit := new(exec.ExitError)
	if !errors.As(err, &failed) || failed.Words != "no such disk" || !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the error is %v", err)
	}
}

func TestToolEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := jail.Start(ctx, jail.Options{Idle: true}, "sh", "-c", "echo begun; exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(p.Out).ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	cancel()
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}

const parentVariable = "ORLOP_JAIL_PARENT"

// TestParent is the process that is killed: it tells its tool's number and stays.
func TestParent(t *testing.T) {
	if os.Getenv(parentVariable) == "" {
		t.Skip("it is run by TestToolEndsWithAKilledParent")
	}
	p, err := jail.Start(t.Context(), jail.Options{}, "sh", "-c", "echo $$; exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(os.Stderr, p.Out)
	_ = p.Wait()
}

func TestToolEndsWithAKilledParent(t *testing.T) {
	parent := exec.Command(os.Args[0], "-test.run=^TestParent$")
	parent.Env = append(os.Environ(), parentVariable+"=1")
	out, err := parent.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the tool's number is %q", line)
	}
	tool, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tool)
	if err := parent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	ended := []unix.PollFd{{Fd: int32(tool), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, int(time.Minute.Milliseconds())); err != nil || n != 1 {
		t.Errorf("the tool outlives who started it: %d, %v", n, err)
	}
}
