package home_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"orlop.dev/facade/home"
)

// holderVariable makes this test binary a process that holds a folder's lock
// until its input ends.
const holderVariable = "ORLOP_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderVariable); dir != "" {
		os.Exit(hold(home.Home(dir)))
	}
	os.Exit(m.Run())
}

func hold(h home.Home) int {
	lock, err := h.Lock()
	if err != nil {
		return 1
	}
	defer lock.Close()
	os.Stdout.WriteString("held\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func newHome(t *testing.T) home.Home {
	t.Helper()
	h, err := home.Locate(filepath.Join(t.TempDir(), "h"))
	if errors.Is(err, home.ErrPathTooLong) {
		t.Skipf("the temporary folder is too deep: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Make(); err != nil {
		t.Fatal(err)
	}
	return h
}

// startHolder starts another process that holds the lock.
func startHolder(t *testing.T, h home.Home) *exec.Cmd {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), holderVariable+"="+string(h))
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = command.Wait() // a second time is no harm
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	return command
}

func TestLockIsTheOwnersAlone(t *testing.T) {
	h := newHome(t)
	if pid, err := h.Owner(); pid != 0 || err != nil {
		t.Fatalf("a fresh folder is owned by %d, %v", pid, err)
	}
	holder := startHolder(t, h)
	if pid, err := h.Owner(); pid != holder.Process.Pid || err != nil {
		t.Errorf("owner is %d, %v, want %d", pid, err, holder.Process.Pid)
	}
	lock, err := h.Lock()
	inUse := new(home.InUseError)
	if !errors.As(err, &inUse) || inUse.PID != holder.Process.Pid {
		t.Errorf("locking a held folder gave %v, %v", lock, err)
	}
}

func TestLockOfAKilledOwnerIsFree(t *testing.T) {
	h := newHome(t)
	holder := startHolder(t, h)
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // says that it was killed
	lock, err := h.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAllThatIsWrittenIsTheOwnersAlone(t *testing.T) {
	h := newHome(t)
	if err := h.WriteEndpoints(home.Endpoints{home.REST: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteStatus(home.Status{Phase: home.Ready}); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(string(h), func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := h.ReadEndpoints(); err != nil || e[home.REST] != "127.0.0.1:1" {
		t.Errorf("endpoints came back as %v, %v", e, err)
	}
	if s, err := h.ReadStatus(); err != nil || s.Phase != home.Ready {
		t.Errorf("status came back as %v, %v", s, err)
	}
}

func TestTooLongPathIsRefusedWithTheVariable(t *testing.T) {
	_, err := home.Locate("/" + strings.Repeat("x", 100))
	if !errors.Is(err, home.ErrPathTooLong) || !strings.Contains(err.Error(), home.Variable) {
		t.Errorf("got %v", err)
	}
}

func TestSettingsFromFlags(t *testing.T) {
	for _, test := range []struct {
		name, flags, problem string // problem: part of the message, or empty
	}{
		{name: "defaults"},
		{name: "everything", flags: "--network=tap --nodes=3 --kubernetes=none --allow-image-source=127.0.0.0/8,10.0.0.0/8 --cpu-overcommit=1.5"},
		{name: "unknown network", flags: "--network=wifi", problem: "--network=wifi"},
		{name: "unknown Kubernetes", flags: "--kubernetes=maybe", problem: "--kubernetes=maybe"},
		{name: "no node", flags: "--nodes=0", problem: "--nodes=0"},
		{name: "no processors", flags: "--cpu-overcommit=0", problem: "--cpu-overcommit"},
		{name: "address in place of a network", flags: "--allow-image-source=10.0.0.1", problem: "--allow-image-source"},
		{name: "no guests' network", flags: "--virtual-machine-cidrs=", problem: "--virtual-machine-cidrs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := home.DefaultSettings()
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			settings.Bind(flags)
			if err := flags.Parse(strings.Fields(test.flags)); err != nil {
				t.Fatal(err)
			}
			err := settings.Validate()
			if test.problem == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("got %v, want a word on %s", err, test.problem)
			}
		})
	}
}
