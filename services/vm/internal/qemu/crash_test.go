package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// These tests stop the daemon between two steps of Start, by taking the steps
// themselves, and let a new daemon find what is left.

const crashID = "6f9619ff-8b86-4011-b42d-00cf4fc964fe"

type crashed struct {
	*Engine
	t       testing.TB
	options Options
	machine Machine
}

func newCrashed(t testing.TB) *crashed {
	t.Helper()
	if testing.Short() {
		t.Skip("runs QEMU: not in the fast run")
	}
	host, err := Probe(t.Context(), DefaultBinary)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &crashed{
		t:       t,
		options: Options{Folder: t.TempDir(), Host: host, DiskRoots: []string{os.TempDir()}, AttachTimeout: time.Minute},
		machine: Machine{
			ID: crashID, Name: "crashed", CPU: CPU{Sockets: 1, CoresPerSocket: 1}, MemoryBytes: 64 << 20,
			Firmware: FirmwareBIOS, Devices: DevicesVirtio, Network: Network{Mode: NetworkNone},
			Type: host.MachineType,
		},
	}
	c.open()
	t.Cleanup(func() {
		if err := c.Kill(context.Background(), crashID); err != nil {
			t.Errorf("clean up: %v", err)
		}
		c.Close()
	})
	return c
}

func (c *crashed) open() {
	c.t.Helper()
	engine, err := New(c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Engine = engine
}

func (c *crashed) restart() {
	c.t.Helper()
	c.Close()
	c.open()
}

// recorded goes as far as the record.
func (c *crashed) recorded() folder {
	c.t.Helper()
	f := c.folderOf(crashID)
	boot, err := bootID()
	if err == nil {
		err = os.MkdirAll(string(f), 0o700)
	}
	if err == nil {
		err = f.write(recordFile, record{Machine: c.machine, BootID: boot})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// launched goes as far as the process.
func (c *crashed) launched() folder {
	c.t.Helper()
	f := c.recorded()
	lock, err := f.acquire()
	if err != nil || lock == nil {
		c.t.Fatalf("lock %v, %v", lock, err)
	}
	if _, err := c.launch(f, lock, record{Machine: c.machine}, Chains{}); err != nil {
		c.t.Fatal(err)
	}
	return f
}

// startRuns starts the machine and tells whether its process is the same one.
func (c *crashed) startRuns(pid int) (same bool) {
	c.t.Helper()
	p, err := c.Start(c.t.Context(), c.machine)
	if err != nil {
		c.t.Fatal(err)
	}
	if state, err := p.State(c.t.Context()); err != nil || state != StateRunning {
		c.t.Errorf("state %s, %v", state, err)
	}
	return c.pid() == pid
}

func (c *crashed) pid() int {
	c.t.Helper()
	pids, err := c.folderOf(crashID).pids(crashID)
	if err != nil || len(pids) != 1 {
		c.t.Fatalf("processes %v, %v", pids, err)
	}
	return pids[0]
}

func TestACrashAfterTheRecordLeavesAMachineThatIsGone(t *testing.T) {
	c := newCrashed(t)
	c.recorded()
	c.restart()
	p, err := c.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.State(t.Context()); err != nil || state != StateGone {
		t.Errorf("state %s, %v", state, err)
	}
	if ending, err := p.Ending(); err != nil || ending != EndingUnborn {
		t.Errorf("ending %s, %v", ending, err)
	}
	c.startRuns(0)
}

func TestACrashInASecondStartSaysNothingOfTheFirst(t *testing.T) {
	c := newCrashed(t)
	c.startRuns(0)
	p, err := c.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(c.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Gone()
	c.restart()
	// A start that fails before its record is one that was cut short there.
	if err := c.folderOf(crashID).clear(); err != nil {
		t.Fatal(err)
	}
	if p, err = c.Find(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	if ending, err := p.Ending(); err != nil || ending != EndingUnborn {
		t.Errorf("ending %s, %v", ending, err)
	}
}

func TestACrashAfterTheLaunchLeavesAMachineThatIsLetGo(t *testing.T) {
	c := newCrashed(t)
	c.launched()
	c.restart() // while QEMU may not even have its sockets
	pid := c.pid()
	p, err := c.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.State(t.Context()); err != nil || state != StateStarting {
		t.Errorf("state %s, %v", state, err)
	}
	if !c.startRuns(pid) {
		t.Error("it was started a second time")
	}
}

func TestACrashAfterTheLaunchOfAProcessThatHangsStartsAnother(t *testing.T) {
	c := newCrashed(t)
	c.launched()
	pid := c.pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.options.AttachTimeout = 200 * time.Millisecond
	c.restart()
	if c.startRuns(pid) {
		t.Error("the hung process is still there")
	}
}

func TestAProcessWithoutARecordCanBeKilled(t *testing.T) {
	c := newCrashed(t)
	f := c.launched()
	if err := os.Remove(f.path(recordFile)); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if err := c.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	if alive, err := f.alive(); err != nil || alive {
		t.Errorf("alive: %t, %v", alive, err)
	}
}

func TestAKillCutShortIsForgottenByAStart(t *testing.T) {
	c := newCrashed(t)
	c.startRuns(0)
	f := c.folderOf(crashID)
	if err := f.recordEnding(StateRunning); err != nil {
		t.Fatal(err)
	}
	c.restart()
	pid := c.pid()
	if !c.startRuns(pid) {
		t.Error("it was started a second time")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p, err := c.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Gone()
	if ending, err := p.Ending(); err != nil || ending != EndingCrashed {
		t.Errorf("ending %s, %v", ending, err)
	}
}

func TestAMachineOfAnEarlierBootWentDownWithTheHost(t *testing.T) {
	c := newCrashed(t)
	f := c.recorded()
	if err := errors.Join(
		f.write(recordFile, record{Machine: c.machine, BootID: "earlier"}), f.mark(startedFile),
	); err != nil {
		t.Fatal(err)
	}
	p, err := c.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if ending, err := p.Ending(); err != nil || ending != EndingHost {
		t.Errorf("ending %s, %v", ending, err)
	}
}

func TestARemovalCutShortIsFinished(t *testing.T) {
	c := newCrashed(t)
	f := c.recorded()
	if err := os.Rename(string(f), c.folder+"/"+trashPrefix+crashID); err != nil {
		t.Fatal(err)
	}
	c.restart()
	left, err := os.ReadDir(c.folder)
	if err != nil || len(left) != 1 || left[0].Name() != lockFile {
		t.Errorf("left %v, %v", left, err)
	}
}
