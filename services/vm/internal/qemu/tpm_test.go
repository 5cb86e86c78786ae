package qemu

import (
	"path/filepath"
	"testing"
)

// newChipped is a machine with a TPM.
func newChipped(t *testing.T) *mover {
	t.Helper()
	return newMoverOf(t, 1<<20, func(m *Machine) {
		host, err := Probe(t.Context(), DefaultBinary)
		if err != nil {
			t.Fatal(err)
		}
		if host.TPM == "" {
			t.Skip("swtpm is not installed")
		}
		m.TPMDir = filepath.Join(t.TempDir(), "tpm")
	})
}

func TestATPMMovesWithItsMachine(t *testing.T) {
	m := newChipped(t)
	m.moves(2)
	if err := m.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	// What the last emulator left is a state to start from.
	if _, err := m.Start(t.Context(), m.machine); err != nil {
		t.Fatal(err)
	}
	m.works()
	m.one()
}

func TestATPMStaysWithASourceWhoseTargetDied(t *testing.T) {
	m := newChipped(t)
	before := m.one()
	m.completes() // the target's emulator has the state
	m.kill(m.peerOf(crashID))
	m.reaches(TransferFailed)
	m.works()
	if m.one() != before {
		t.Error("it is another process")
	}
	m.moves(1)
}

func TestATPMIsPutBackWithTheMemory(t *testing.T) {
	m := newChipped(t)
	dir := m.save()
	m.works()
	if err := m.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	back := m.putBack()
	if err := m.Recall(t.Context(), back, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	m.works()
	m.one()
	m.moves(1)
}
