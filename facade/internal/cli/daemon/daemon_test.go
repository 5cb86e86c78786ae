package daemon_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"orlop.dev/facade/home"
	"orlop.dev/facade/internal/cli/daemon"
)

const patience = 30 * time.Second

// TestMain makes this test binary a daemon where its first argument says how
// that one behaves.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && strings.HasPrefix(os.Args[1], "as-") {
		os.Exit(behave(os.Args[1]))
	}
	os.Exit(m.Run())
}

func behave(how string) int {
	h := home.Home(os.Getenv(home.Variable))
	lock, err := h.Lock()
	if err != nil {
		return 1
	}
	defer lock.Close()
	status := home.Status{PID: os.Getpid(), Phase: home.Starting, Steps: []home.Step{{Name: "etcd", Done: true}, {Name: "services"}}}
	switch how {
	case "as-good":
		status.Phase, status.Steps[1].Done = home.Ready, true
	case "as-failing":
		status.Phase, status.Error = home.Failed, "the port is taken"
	case "as-dying":
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := h.WriteStatus(status); err != nil {
		return 1
	}
	if how == "as-failing" {
		return 1
	}
	<-ctx.Done()
	return 0
}

func newHome(t *testing.T) home.Home {
	t.Helper()
	dir, err := os.MkdirTemp("", "orlop") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // leaves at most files in the system's own folder
	h, err := home.Locate(filepath.Join(dir, "h"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func start(t *testing.T, h home.Home, how string) (steps []string, err error) {
	t.Helper()
	p, err := daemon.Start(h, os.Args[0], []string{how})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = p.Follow(ctx, func(s home.Step) { steps = append(steps, s.Name) })
	return steps, err
}

func TestDaemonIsFollowedFoundAndStopped(t *testing.T) {
	h := newHome(t)
	steps, err := start(t, h, "as-good")
	if err != nil || !slices.Equal(steps, []string{"etcd", "services"}) {
		t.Fatalf("followed %q, %v", steps, err)
	}
	found, err := daemon.Find(h)
	if err != nil || found == nil {
		t.Fatalf("found %v, %v", found, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := found.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if gone, err := daemon.Find(h); err != nil || gone != nil {
		t.Errorf("found %v, %v after its end", gone, err)
	}
	if err := found.Stop(ctx); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

func TestDaemonThatFailsSaysWhy(t *testing.T) {
	_, err := start(t, newHome(t), "as-failing")
	failed := new(daemon.FailedError)
	if !errors.As(err, &failed) || failed.Reason != "the port is taken" {
		t.Errorf("got %v", err)
	}
}

func TestDaemonThatDiesWithoutAWordIsNoticed(t *testing.T) {
	if _, err := start(t, newHome(t), "as-dying"); !errors.Is(err, daemon.ErrGone) {
		t.Errorf("got %v", err)
	}
}
