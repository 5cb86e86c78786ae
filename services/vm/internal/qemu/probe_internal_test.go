package qemu

import (
	"os/exec"
	"testing"
)

// The boot sector of the KVM probe, under the accelerator that is always there.
func TestTheBootProbeTellsAGuestThatRuns(t *testing.T) {
	binary, err := exec.LookPath(DefaultBinary)
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	// It has a second; a crowded machine may need a second go.
	ran := false
	for range 20 {
		if ran = boots(t.Context(), binary, AcceleratorTCG); ran {
			break
		}
	}
	if !ran {
		t.Error("the probe does not run under TCG")
	}
	if boots(t.Context(), binary, "no-such-accelerator") {
		t.Error("the probe runs under nothing")
	}
}
