package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// diskBytes are copied in some seconds at the rates of slow and endless.
const diskBytes = 12 << 20

// newLocal is a mover whose disk only its node reaches.
func newLocal(t *testing.T) *mover {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: make setup installs it")
	}
	return newMoverOf(t, diskBytes)
}

// afresh has an empty file for the next attempt, as the disk service makes it.
func (m *mover) afresh() Copy {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "copy.qcow2")
	m.tool("create", "-q", "-f", "qcow2", path, fmt.Sprint(diskBytes))
	m.copies = []Copy{{Disk: "disk0", Path: path, Mark: path + ".live"}}
	return m.copies[0]
}

func (m *mover) tool(arguments ...string) {
	m.t.Helper()
	if said, err := exec.Command("qemu-img", arguments...).CombinedOutput(); err != nil {
		m.t.Fatalf("qemu-img %v: %v: %s", arguments, err, said)
	}
}

// writes has the guest's disk written to, as far as anything below it can tell.
func (m *mover) writes(pattern byte, at string) {
	m.t.Helper()
	p := m.processIn(m.folderOf(crashID))
	var said string
	command := fmt.Sprintf(`qemu-io -d %s "write -P %#x %s 64k"`, deviceID("disk0"), pattern, at)
	if err := p.executeWith(m.t.Context(), "human-monitor-command", map[string]any{"command-line": command}, &said); err != nil || said != "" {
		m.t.Fatalf("%s, %v", said, err)
	}
}

// wantOn demands that the disk is in that file, and that nothing is left of
// copying.
func (m *mover) wantOn(path string, marks ...string) {
	m.t.Helper()
	p := m.processIn(m.folderOf(crashID))
	tops, nodes, err := p.tops(m.t.Context())
	if err != nil || tops["disk0"].path != path || p.Machine().Disks[0].Path != path {
		m.t.Errorf("the disk is in %s, recorded as %s, %v; want %s", tops["disk0"].path, p.Machine().Disks[0].Path, err, path)
	}
	for name := range nodes {
		if strings.HasSuffix(name, mirrorSuffix) {
			m.t.Errorf("%s is left", name)
		}
	}
	if left, err := p.mirrors(m.t.Context()); err != nil || len(left) > 0 {
		m.t.Errorf("%v are left, %v", left, err)
	}
	for _, c := range m.copies {
		if _, err := os.Stat(c.Mark); (err == nil) != slices.Contains(marks, c.Mark) {
			m.t.Errorf("mark %s: %v", c.Mark, err)
		}
	}
}

func TestADiskMovesWithItsMachine(t *testing.T) {
	m := newLocal(t)
	old := m.machine.Disks[0].Path
	file := m.afresh()
	m.send(slow)
	at := m.follows(func(at Transfer) bool { return at.Copying && at.RemainingBytes < at.TotalBytes && at.TotalBytes > 0 })
	if at.State != TransferRunning || at.CopiedBytes < diskBytes {
		t.Errorf("%+v", at)
	}
	m.writes(0x11, "1M")  // of which a part is copied
	m.writes(0x22, "11M") // and this is not
	m.reaches(TransferMoved)
	m.works()
	m.one()
	m.wantOn(file.Path, file.Mark)
	m.tool("compare", "-U", "-f", "raw", "-F", "qcow2", old, file.Path)
	m.writes(0x33, "2M") // the file is the guest's alone
}

func TestADiskThatDoesNotMoveStaysWhole(t *testing.T) {
	for name, fail := range map[string]func(m *mover){
		"aborted while it is copied": func(m *mover) {
			m.send(endless)
			m.follows(func(at Transfer) bool { return at.Copying })
		},
		"aborted while memory is sent": func(m *mover) {
			m.send(endless)
			m.follows(func(at Transfer) bool { return at.State == TransferRunning && !at.Copying })
		},
		"its target dies": func(m *mover) {
			m.send(endless)
			m.follows(func(at Transfer) bool { return at.Copying })
			m.kill(m.peerOf(crashID))
			m.reaches(TransferFailed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newLocal(t)
			before, old := m.pid(), m.machine.Disks[0].Path
			m.afresh()
			fail(m)
			if err := m.Abort(t.Context(), crashID, m.attempt()); err != nil {
				t.Fatal(err)
			}
			m.works()
			if m.one() != before {
				t.Error("it is another process")
			}
			m.wantOn(old)
			m.writes(0x44, "3M")
			file := m.afresh()
			m.send(fast)
			m.reaches(TransferMoved)
			m.works()
			m.wantOn(file.Path, file.Mark)
			m.tool("compare", "-U", "-f", "raw", "-F", "qcow2", old, file.Path)
		})
	}
}

func TestADaemonThatIsKilledWhileADiskMovesGoesOn(t *testing.T) {
	for name, until := range map[string]func(Transfer) bool{
		"waiting": nil,
		"copying": func(at Transfer) bool { return at.Copying },
		"sending": func(at Transfer) bool { return at.State == TransferRunning && !at.Copying },
	} {
		t.Run(name, func(t *testing.T) {
			m := newLocal(t)
			old, file := m.machine.Disks[0].Path, m.afresh()
			if until == nil {
				m.receive()
			} else {
				m.send(slow)
				m.follows(until)
			}
			m.restart()
			if until == nil {
				if err := m.Send(t.Context(), crashID, m.attempt(), fast); err != nil {
					t.Fatal(err)
				}
			}
			m.reaches(TransferMoved)
			m.works()
			m.one()
			m.wantOn(file.Path, file.Mark)
			m.tool("compare", "-U", "-f", "raw", "-F", "qcow2", old, file.Path)
		})
	}
}

func TestADiskThatCannotBeCopiedFailsTheMigration(t *testing.T) {
	m := newLocal(t)
	m.afresh()
	m.copies[0].Disk = "other"
	err := m.Receive(t.Context(), crashID, "attempt", "", m.copies)
	if err == nil || errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	m.works()
	m.wantOn(m.machine.Disks[0].Path)
}
