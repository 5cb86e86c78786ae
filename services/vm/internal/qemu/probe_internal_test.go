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
	if !boots(t.Context(), binary, AcceleratorTCG) {
		t.Error("the probe does not run under TCG")
	}
	if boots(t.Context(), binary, "no-such-accelerator") {
		t.Error("the probe runs under nothing")
	}
}
