package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// overlay makes an empty file that reads through to the machine's disk.
func (m *mover) overlay(name, backing string) string {
	m.t.Helper()
	path := filepath.Join(filepath.Dir(m.machine.Disks[0].Path), name)
	arguments := []string{"create", "-q", "-f", "qcow2", path, "1M"}
	if backing != "" {
		arguments = []string{"create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", path}
	}
	if said, err := exec.Command("qemu-img", arguments...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v", said, err)
	}
	return path
}

// save saves the machine while its disk moves to an overlay.
func (m *mover) save() string {
	m.t.Helper()
	dir := m.t.TempDir()
	overlay := Overlay{Disk: "disk0", Path: m.overlay("top.qcow2", m.machine.Disks[0].Path)}
	if err := m.Save(m.t.Context(), crashID, dir, []Overlay{overlay}); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// putBack is the machine with a disk that nothing boots from: what runs then came
// from memory.
func (m *mover) putBack() Machine {
	back := m.machine
	back.Disks = []Disk{back.Disks[0]}
	back.Disks[0].Path, back.Disks[0].Format = m.overlay("back.qcow2", ""), FormatQCOW2
	return back
}

func TestAMachineIsPutBackToTheInstantAtWhichItWasSaved(t *testing.T) {
	m := newMover(t)
	dir := m.save()
	m.works() // and goes on
	m.moves(1)
	if err := m.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	back := m.putBack()
	for range 2 { // the second finds it done
		if err := m.Recall(t.Context(), back, dir); err != nil {
			t.Fatal(err)
		}
	}
	p, err := m.Find(t.Context(), crashID)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.State(t.Context()); err != nil || state != StateStarting {
		t.Errorf("before it is let go its state is %s, %v", state, err)
	}
	if _, err := m.Start(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	m.works()
	if !p.folder().has(clockFile) {
		t.Error("nobody is told that its clock is behind")
	}
	if err := m.Recall(t.Context(), back, dir); !errors.Is(err, ErrRunning) {
		t.Errorf("recalled while it runs: %v", err)
	}
}

func TestMemoryIsRecalledOnlyByTheMachineThatItIsOf(t *testing.T) {
	m := newMover(t)
	dir := m.save()
	if err := m.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Machine){
		"processors": func(o *Machine) { o.CPU.Sockets = 2 },
		"bytes of":   func(o *Machine) { o.MemoryBytes = 32 << 20 },
		"MAC":        func(o *Machine) { o.Network.MAC = "52:54:00:12:34:57" },
		"2 disks": func(o *Machine) {
			o.Disks = append(o.Disks, Disk{ID: "disk1", Path: "/x", Format: FormatRaw, Medium: MediumDisk})
		},
		"not there":      func(o *Machine) { o.Disks[0].ID = "disk1" },
		"was written to": func(o *Machine) { m.write(o.Disks[0].Path) },
	} {
		other := m.putBack()
		change(&other)
		err := m.Recall(t.Context(), other, dir)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.Recall(t.Context(), m.putBack(), t.TempDir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("without memory: %v", err)
	}
}

func (m *mover) write(path string) {
	m.t.Helper()
	if said, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "write 0 512", path).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v", said, err)
	}
}

func TestASaveThatNobodyGoesOnWithLeavesTheGuestRunning(t *testing.T) {
	m := newMover(t)
	overlay := []Overlay{{Disk: "disk0", Path: m.overlay("top.qcow2", m.machine.Disks[0].Path)}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Save(ctx, crashID, t.TempDir(), overlay); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has left: %v", err)
	}
	m.works()
	for name, steps := range map[string]func(p *Process){
		"begun": func(*Process) {},
		"stopped": func(p *Process) {
			for info := (migrateInfo{}); info.Status != "pre-switchover"; {
				var err error
				if info, err = p.sending(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		},
		"saved": func(p *Process) {
			for done := false; !done; {
				info, err := p.sending(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if done = info.Status == "pre-switchover"; !done {
					continue
				}
				if err := p.executeWith(t.Context(), "migrate-continue", map[string]any{"state": info.Status}, nil); err != nil {
					t.Fatal(err)
				}
				if err := p.awaitSaved(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		p, err := m.beginSaving(t.Context(), crashID, t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		steps(p)
		m.restart() // the daemon is killed here
		m.works()
		if m.folderOf(crashID).has(savingFile) {
			t.Errorf("%s: it is still to be ended", name)
		}
	}
	m.moves(1) // as any other
}

func TestASaveThatFailsIsTold(t *testing.T) {
	m := newMover(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, memoryFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.Save(t.Context(), crashID, dir, nil); err == nil {
		t.Error("memory is saved into a folder")
	}
	m.works()
}
