package guest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"orlop.dev/facade/internal/cli/guest"
)

const patience = 30 * time.Second

// startQEMU starts an emulator with nothing to boot, which therefore is deaf to
// its power button.
func startQEMU(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU: %v", err)
	}
	command := exec.Command(binary, "-nodefaults", "-display", "none", "-machine", "q35", "-S",
		"-qmp", "unix:qmp.sock,server=on,wait=off", "-action", "shutdown=pause")
	command.Dir = dir
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill() // it may be gone, as it should
		_ = command.Wait()
	})
	deadline := time.Now().Add(patience)
	for {
		_, err := os.Stat(filepath.Join(dir, "qmp.sock"))
		if err == nil {
			return command
		}
		if !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline) {
			t.Fatalf("QEMU has no control socket: %v", err)
		}
	}
}

func findOne(t *testing.T, dir string) *guest.Guest {
	t.Helper()
	guests, err := guest.Find(dir)
	if err != nil || len(guests) != 1 {
		t.Fatalf("found %v, %v, want one guest", guests, err)
	}
	t.Cleanup(func() {
		if err := guests[0].Close(); err != nil {
			t.Error(err)
		}
	})
	return guests[0]
}

func TestGuestIsFoundByItsFolderAlone(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	dir := filepath.Join(root, "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	started := startQEMU(t, dir)
	if g := findOne(t, root); g.PID != started.Process.Pid || g.Dir != dir {
		t.Errorf("found %d in %s", g.PID, g.Dir)
	}
	if guests, err := guest.Find(other); err != nil || len(guests) != 0 {
		t.Errorf("another folder has %v, %v", guests, err)
	}
}

func TestGuestThatIsDeafIsSwitchedOffHard(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "machine")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	started := startQEMU(t, dir)
	g := findOne(t, root)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	killed, err := g.PowerOff(ctx)
	if err != nil || !killed {
		t.Errorf("got %v, %v", killed, err)
	}
	if err := started.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
}

func TestNoFolderHasNoGuests(t *testing.T) {
	if guests, err := guest.Find(filepath.Join(t.TempDir(), "none")); err != nil || len(guests) != 0 {
		t.Errorf("got %v, %v", guests, err)
	}
}
