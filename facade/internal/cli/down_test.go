package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/facade/home"
)

// down runs `orlop down` on a state folder.
func down(t *testing.T, h home.Home, arguments ...string) {
	t.Helper()
	t.Setenv(home.Variable, string(h))
	command := New("test", []string{"orlop"})
	command.SetOut(new(bytes.Buffer))
	command.SetArgs(append([]string{"down"}, arguments...))
	if err := command.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("orlop down %q: %v", arguments, err)
	}
}

func TestDownRemovesTheNetworkWithTheGuestsOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("no tool to make a network namespace: %v", err)
	}
	h := newHome(t, nil)
	name := filepath.Base(h.NetworkNamespace())
	if said, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v\n%s", err, said)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() }) // it is gone, as it should
	down(t, h)
	if _, err := os.Stat(h.NetworkNamespace()); err != nil {
		t.Errorf("guests that run on have lost their network: %v", err)
	}
	for range 2 { // the second time there is nothing to do
		down(t, h, "--guests")
		if _, err := os.Stat(h.NetworkNamespace()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the network is still there: %v", err)
		}
	}
}
