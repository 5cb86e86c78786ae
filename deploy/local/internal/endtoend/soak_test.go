//go:build soak

package endtoend_test

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rounds of TestSoakKills take about half a minute each without KVM.
const rounds = 50

// TestSoakKills kills the daemon at any moment of a VM's stop and start, again
// and again: each time the next daemon ends what the last one began, with one
// guest, one address, and nothing lost.
func TestSoakKills(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.orlop("up", "--allow-image-source", "127.0.0.0/8")
	t.Cleanup(func() { _, _ = u.run(exec.Command(u.bin("orlop"), "down", "--guests")) })
	u.kubectl("apply", "-f", filepath.Join(u.root, "examples", "quickstart.yaml"))
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")

	for round := range rounds {
		operation, phase := "stop", "Stopped"
		if round%2 == 1 {
			operation, phase = "start", "Running"
		}
		u.orlop(operation, "linux-vm", "--create-only")
		moment := rand.N(5 * time.Second)
		t.Logf("round %d: %s, killed after %s", round, operation, moment)
		<-time.After(moment)
		u.killDaemon()
		u.orlop("up", "--allow-image-source", "127.0.0.0/8")
		u.waitFor("vm/linux-vm", "{.status.phase}", phase)
		if addresses := u.kubectl("get", "vmip", "-o", "name"); strings.Count(addresses, "\n") != 1 {
			t.Fatalf("round %d: the addresses are\n%s", round, addresses)
		}
		if guests := u.guests(); guests != (round % 2) {
			t.Fatalf("round %d: %d guests run after %s", round, guests, operation)
		}
	}
}

// TestSoakKillsWhileImagesAndDisksAreMade is its short sister, many times.
func TestSoakKillsWhileImagesAndDisksAreMade(t *testing.T) {
	k := newKilled(t)
	for round := range rounds {
		k.round(round)
	}
}

func (u *user) guests() int {
	output, _ := exec.Command("pgrep", "-f", "qemu-system-x86_64.*"+u.home).Output()
	return len(strings.Fields(string(output)))
}
