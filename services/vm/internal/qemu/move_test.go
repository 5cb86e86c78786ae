package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patient bounds what a crowded machine may take; tests that pass don't wait.
const patient = 2 * time.Minute

// The guest writes 16 MiB over and over. fast comes to its end soon; slow does
// after a round of some seconds; throttled only once the guest is slowed down,
// which leaves fewer than its 13 MiB on the quickest host too; endless never.
var (
	fast      = Limits{Downtime: 2 * time.Second, Converge: true}
	slow      = Limits{Downtime: 4 * time.Second, BytesPerSecond: 8 << 20, Converge: true}
	throttled = Limits{Downtime: 1300 * time.Millisecond, BytesPerSecond: 10 << 20, Converge: true}
	endless   = Limits{Downtime: time.Millisecond, BytesPerSecond: 4 << 20}
)

// mover is a machine that writes its memory, and moves.
type mover struct {
	*crashed
	attempts int
	// copies are the files that its disks are copied into.
	copies []Copy
}

func newMover(t testing.TB) *mover { return newMoverOf(t, 1<<20) }

// newMoverOf has a disk of so many bytes, of which none is zero, and is changed
// before it starts.
func newMoverOf(t testing.TB, diskBytes int, changes ...func(*Machine)) *mover {
	t.Helper()
	m := &mover{crashed: newCrashed(t)}
	sector := bytes.Repeat([]byte{0x5a}, diskBytes)
	copy(sector, memoryWriter)
	sector[510], sector[511] = 0x55, 0xaa
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	m.machine.MemoryBytes = 64 << 20
	m.machine.Disks = []Disk{{ID: "disk0", Path: disk, Format: FormatRaw, Medium: MediumDisk, BootIndex: 1}}
	m.machine.Network = Network{Mode: NetworkUser, MAC: "52:54:00:12:34:56", User: &UserNetwork{
		Subnet: netip.MustParsePrefix("10.66.10.0/24"), Gateway: netip.MustParseAddr("10.66.10.1"),
		Guest: netip.MustParseAddr("10.66.10.10"), Forward: []Forward{{Host: unusedPort(t), GuestPort: 22}},
	}}
	for _, change := range changes {
		change(&m.machine)
	}
	if _, err := m.Start(t.Context(), m.machine); err != nil {
		t.Fatal(err)
	}
	m.works()
	return m
}

// unusedPort is one that was free a moment ago.
func unusedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// works waits until the guest went through its memory twice more, whole.
func (m *mover) works() {
	m.t.Helper()
	p, err := m.Find(m.t.Context(), crashID)
	if err != nil {
		m.t.Fatal(err)
	}
	viewer, err := p.Console().Attach()
	if err != nil {
		m.t.Fatal(err)
	}
	defer viewer.Close()
	late := time.AfterFunc(patient, func() { _ = viewer.Close() })
	defer late.Stop()
	heard, seen := make([]byte, 4<<10), 0
	// What was said before comes first.
	fresh := strings.Count(string(history(viewer)), ".") + 2
	for seen = fresh - 2; seen < fresh; {
		n, err := viewer.Read(heard)
		if err != nil {
			m.t.Fatalf("the guest says nothing: %v", err)
		}
		if slices.Contains(heard[:n], 'X') {
			m.t.Fatal("the guest's memory is wrong")
		}
		seen += strings.Count(string(heard[:n]), ".")
	}
}

// history is what a new viewer is shown.
func history(viewer io.Reader) []byte {
	kept := make([]byte, 256<<10)
	n, _ := viewer.Read(kept)
	return kept[:n]
}

func (m *mover) attempt() string { return fmt.Sprint("attempt-", m.attempts) }

func (m *mover) receive() {
	m.t.Helper()
	m.attempts++
	for range 2 { // the second finds it done
		if err := m.Receive(m.t.Context(), crashID, m.attempt(), "", m.copies); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *mover) send(limits Limits) {
	m.t.Helper()
	m.receive()
	for range 2 {
		if err := m.Send(m.t.Context(), crashID, m.attempt(), limits); err != nil {
			m.t.Fatal(err)
		}
	}
}

// reaches waits until the migration is so far.
func (m *mover) reaches(want TransferState) Transfer {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patient)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := m.Transfer(ctx, crashID, m.attempt())
		if err != nil {
			m.t.Fatal(err)
		}
		if got.State == want {
			return got
		}
		if got.State == TransferMoved || got.State == TransferFailed {
			m.t.Fatalf("the migration ended as %+v, want %s", got, want)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("the migration is %+v, want %s", got, want)
		}
	}
}

// completes sends the machine without anybody who lets the target go: a daemon
// that is killed in the instant before.
func (m *mover) completes() {
	m.t.Helper()
	m.receive()
	ctx := m.t.Context()
	source, target := m.processIn(m.folderOf(crashID)), m.processIn(m.peerOf(crashID))
	err := errors.Join(
		source.configure(ctx, fast, false), m.folderOf(crashID).setMove(move{Attempt: m.attempt()}),
		source.send(ctx, "unix:../"+m.peerOf(crashID).name()+"/"+incomingSocket, m.host))
	if err != nil {
		m.t.Fatal(err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, p := range []*Process{source, target} {
		for info := (migrateInfo{}); info.Status != "completed"; <-tick.C {
			if info, err = p.sending(ctx); err != nil || info.failed() {
				m.t.Fatalf("%+v, %v", info, err)
			}
		}
	}
}

func (m *mover) processIn(f folder) *Process {
	m.t.Helper()
	p, err := m.findIn(m.t.Context(), f)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// kill ends the processes of a run folder as nothing of ours would.
func (m *mover) kill(f folder) {
	m.t.Helper()
	pids, err := f.pids(crashID)
	if err != nil || len(pids) == 0 {
		m.t.Fatalf("processes %v, %v", pids, err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			m.t.Fatal(err)
		}
	}
	for alive := true; alive; {
		if alive, err = f.alive(); err != nil {
			m.t.Fatal(err)
		}
	}
}

// one demands that there is one QEMU of the machine, with one TPM if it has one,
// and gives QEMU.
func (m *mover) one() int {
	m.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		m.t.Fatal(err)
	}
	found := map[string][]int{}
	for _, link := range links {
		if where, err := os.Readlink(link); err == nil && strings.HasPrefix(where, m.folder+"/") {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "comm"))
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			found[strings.TrimSpace(string(name))] = append(found[strings.TrimSpace(string(name))], pid)
		}
	}
	chips := 0
	if m.machine.TPMDir != "" {
		chips = 1
	}
	if len(found["qemu-system-x86"]) != 1 || len(found[tpmBinary]) != chips || len(found) != 1+chips {
		m.t.Fatalf("processes %v, want one of each", found)
	}
	if m.Moving(crashID) {
		m.t.Error("something is left of the migration")
	}
	return found["qemu-system-x86"][0]
}

// moves has the machine moved, and demands that its memory is right.
func (m *mover) moves(times int) {
	m.t.Helper()
	for range times {
		before := m.one()
		m.send(fast)
		moved := m.reaches(TransferMoved)
		m.works()
		if now := m.one(); now == before {
			m.t.Fatal("it is the same process")
		}
		m.t.Logf("in %s, standing still for %s", moved.Elapsed, moved.Downtime)
		conn, err := net.Dial("tcp", m.machine.Network.User.Forward[0].Host.String())
		if err != nil {
			m.t.Fatalf("the forwarded port did not come along: %v", err)
		}
		_ = conn.Close()
	}
}

func TestAMachineMovesAndItsMemoryStaysRight(t *testing.T) {
	m := newMover(t)
	m.moves(3)
	m.restart()
	m.works()
	if at := m.reaches(TransferMoved); at.Elapsed == 0 {
		t.Errorf("later: %+v", at)
	}
}

func TestAMigrationThatIsAbortedLeavesTheSource(t *testing.T) {
	m := newMover(t)
	before := m.pid()
	for name, begin := range map[string]func(){
		"waiting": m.receive,
		"running": func() { m.send(endless); m.reaches(TransferRunning) },
		"sent":    m.completes,
	} {
		t.Run(name, func(t *testing.T) {
			begin()
			for range 2 {
				if err := m.Abort(t.Context(), crashID, m.attempt()); err != nil {
					t.Fatal(err)
				}
			}
			m.works()
			if m.one() != before {
				t.Error("it is another process")
			}
		})
	}
}

func TestADaemonThatIsKilledInAMigrationGoesOn(t *testing.T) {
	for name, test := range map[string]struct {
		kill func(m *mover)
		want TransferState
	}{
		"running":       {func(m *mover) { m.send(slow) }, TransferMoved},
		"sent":          {func(m *mover) { m.completes() }, TransferMoved},
		"exchanged":     {func(m *mover) { m.completes(); m.exchanged() }, TransferMoved},
		"sent, no peer": {func(m *mover) { m.completes(); m.kill(m.peerOf(crashID)) }, TransferFailed},
		"sent, alone":   {func(m *mover) { m.completes(); m.kill(m.folderOf(crashID)) }, TransferMoved},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMover(t)
			test.kill(m)
			m.restart()
			m.reaches(test.want)
			m.works()
			m.one()
		})
	}
}

// exchanged goes as far as the exchange.
func (m *mover) exchanged() {
	m.t.Helper()
	main, peer := m.folderOf(crashID), m.peerOf(crashID)
	err := errors.Join(peer.mark(startedFile), peer.mark(owedFile),
		unix.Renameat2(unix.AT_FDCWD, string(main), unix.AT_FDCWD, string(peer), unix.RENAME_EXCHANGE))
	if err != nil {
		m.t.Fatal(err)
	}
}

func TestATargetThatDiesLeavesTheSource(t *testing.T) {
	m := newMover(t)
	before := m.pid()
	m.send(endless)
	m.kill(m.peerOf(crashID))
	if at := m.reaches(TransferFailed); at.Failure == "" {
		t.Error("it doesn't say why")
	}
	m.works()
	if m.one() != before {
		t.Error("it is another process")
	}
}

func TestASourceThatDiesIsACrash(t *testing.T) {
	m := newMover(t)
	m.send(endless)
	m.kill(m.folderOf(crashID))
	m.reaches(TransferFailed)
	p, err := m.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if ending, err := p.Ending(); err != nil || ending != EndingCrashed || m.Moving(crashID) {
		t.Errorf("ending %s, %v", ending, err)
	}
}

func TestAMigrationConvergesIfItMaySlowTheGuestDown(t *testing.T) {
	m := newMover(t)
	m.send(endless)
	// Three times through memory, and as much is left as before.
	at := m.follows(func(at Transfer) bool { return at.Rounds > 3 })
	if at.State != TransferRunning || at.ThrottlePercent != 0 {
		t.Errorf("without auto-converge: %+v", at)
	}
	if err := m.Abort(t.Context(), crashID, m.attempt()); err != nil {
		t.Fatal(err)
	}
	m.works()
	m.send(throttled)
	slowed := 0
	m.follows(func(at Transfer) bool {
		slowed = max(slowed, at.ThrottlePercent)
		return at.State == TransferMoved
	})
	if slowed == 0 {
		t.Error("it came to its end by itself: this shows nothing")
	}
	m.works()
	m.one()
}

// follows looks at the migration until it is as wanted.
func (m *mover) follows(wanted func(Transfer) bool) Transfer {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*patient)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for told := 0; ; {
		at, err := m.Transfer(ctx, crashID, m.attempt())
		if err != nil {
			m.t.Fatal(err)
		}
		if wanted(at) {
			return at
		}
		if at.Rounds != told {
			told = at.Rounds
			m.t.Logf("round %d after %s: %d KiB left, slowed down by %d %%", at.Rounds, at.Elapsed, at.RemainingBytes>>10, at.ThrottlePercent)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatalf("the migration is %+v", at)
		}
	}
}
