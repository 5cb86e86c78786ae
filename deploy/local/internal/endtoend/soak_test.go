//go:build soak

package endtoend_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// killRounds of TestSoakKills take about half a minute each without KVM.
	killRounds = 50
	// roundsVariable is how often the rounds of these tests are gone through, where
	// it is not as often as they say.
	roundsVariable = "ORLOP_SOAK_ROUNDS"
)

func soakRounds(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv(roundsVariable)
	if text == "" {
		return usual
	}
	rounds, err := strconv.Atoi(text)
	check(t, err)
	return rounds
}

// TestSoakKills kills the daemon at any moment of a VM's stop and start, again
// and again: each time the next daemon ends what the last one began, with one
// guest, one address, and nothing lost.
func TestSoakKills(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()
	u.kubectl("apply", "-f", filepath.Join(u.root, "examples", "quickstart.yaml"))
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")

	for round := range soakRounds(t, killRounds) {
		operation, phase := "stop", "Stopped"
		if round%2 == 1 {
			operation, phase = "start", "Running"
		}
		u.orlop(operation, "linux-vm", "--create-only")
		moment := rand.N(5 * time.Second)
		t.Logf("round %d: %s, killed after %s", round, operation, moment)
		<-time.After(moment)
		u.killDaemon()
		u.starts()
		u.waitFor("vm/linux-vm", "{.status.phase}", phase)
		if addresses := u.kubectl("get", "vmip", "-o", "name"); strings.Count(addresses, "\n") != 1 {
			t.Fatalf("round %d: the addresses are\n%s", round, addresses)
		}
		if guests := u.guests(); guests != (round % 2) {
			t.Fatalf("round %d: %d guests run after %s", round, guests, operation)
		}
	}
}

// TestSoakKillsInMigrations kills the daemon, or one of the two QEMUs, at any
// moment of a migration: there is one guest in the end, on the node that the VM's
// status says, and it is the same one unless its own QEMU was killed.
func TestSoakKillsInMigrations(t *testing.T) {
	soakKillsInMigrations(t)
}

// TestSoakKillsWhileDisksMove does so while the VM's disk is copied, and memory
// after it.
func TestSoakKillsWhileDisksMove(t *testing.T) { soakKillsInMigrations(t, slowly...) }

func soakKillsInMigrations(t *testing.T, flags ...string) {
	u := newUser(t)
	u.serveImage()
	u.up(flags...)
	u.kubectl("apply", "-f", filepath.Join(u.root, "examples", "quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	u.writesLines()

	for round := range soakRounds(t, killRounds) {
		boot := u.bootID()
		u.orlop("evict", "linux-vm", "--create-only")
		moment := rand.N(5 * time.Second)
		victim := []string{"the daemon", "the target"}[round%2]
		t.Logf("round %d: %s is killed after %s", round, victim, moment)
		<-time.After(moment)
		if round%2 == 0 {
			u.killDaemon()
			u.starts(flags...)
		} else {
			u.killTarget()
		}
		u.operationsEnd()
		u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
		if guests := u.guests(); guests != 1 {
			t.Fatalf("round %d: %d guests run", round, guests)
		}
		if now := u.bootID(); now != boot {
			t.Fatalf("round %d: the guest was started anew", round)
		}
		if u.wantLines(); t.Failed() {
			t.Fatalf("round %d: the disk is not whole", round)
		}
	}
}

// killTarget kills the QEMU that a VM is moving into, if there is one.
func (u *user) killTarget() {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	check(u.t, err)
	for _, link := range links {
		where, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(where, u.home) || !strings.HasSuffix(where, ".peer") {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		check(u.t, err)
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as well
	}
}

// operationsEnd waits until none goes on.
func (u *user) operationsEnd() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for give := time.Now().Add(deadline); ; <-tick.C {
		phases := u.kubectl("get", "vmop", "-o", "jsonpath={range .items[*]}<{.status.phase}>{end}")
		// One that nobody has looked at yet has none.
		if !strings.Contains(phases, "<InProgress>") && !strings.Contains(phases, "<Pending>") && !strings.Contains(phases, "<>") {
			return
		}
		if time.Now().After(give) {
			u.t.Fatalf("the operations are %s", phases)
		}
	}
}

// TestSoakKillsWhileImagesAndDisksAreMade is its short sister, many times.
func TestSoakKillsWhileImagesAndDisksAreMade(t *testing.T) {
	k := newKilled(t)
	for round := range soakRounds(t, killRounds) {
		k.round(round)
	}
}

func (u *user) guests() int {
	output, _ := exec.Command("pgrep", "-f", "qemu-system-x86_64.*"+u.home).Output()
	return len(strings.Fields(string(output)))
}

// TestSoakSnapshots takes two hundred snapshots of a disk under a guest that writes:
// its files are made fewer meanwhile, what it wrote stays in order, and the space
// comes back with the last snapshot.
func TestSoakSnapshots(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	before := u.diskBytes()
	u.inGuest("cloud", write)
	names := u.snapshots(soakRounds(t, manySnapshots))
	u.inGuest("cloud", stop)
	u.shortens()
	u.wantInOrder(strings.TrimPrefix(names[len(names)/2], "vdsnapshot/"), false)
	u.kubectl(append([]string{"delete", "--timeout", "5m"}, names...)...)
	u.until("the space of deleted snapshots comes back", func() (string, bool) {
		grown := u.diskBytes() - before
		return fmt.Sprintf("%d MiB more than before", grown>>20), grown < 40<<20
	})
	u.inGuest("cloud", "cat data")
}
