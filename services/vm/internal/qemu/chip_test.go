package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"orlop.dev/services/vm/internal/cgroup"
	"orlop.dev/services/vm/internal/qemu"
)

// processes are all that work in the machine's run folder, by what they are.
func (d *daemon) processes() map[string]int {
	d.t.Helper()
	found := map[string]int{}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		name, nameErr := os.ReadFile(filepath.Join(filepath.Dir(link), "comm"))
		if err != nil || nameErr != nil || target != filepath.Join(d.options.Folder, machineID) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			d.t.Fatal(err)
		}
		found[strings.TrimSpace(string(name))] = pid
	}
	return found
}

func TestATPMEndsWithItsMachineAndKeepsItsState(t *testing.T) {
	d := newDaemon(t)
	if d.options.Host.TPM == "" {
		t.Skip("swtpm is not installed")
	}
	m := d.machine()
	m.TPMDir = filepath.Join(t.TempDir(), "vm", "tpm")
	d.start(m)
	if got := d.processes(); len(got) != 2 || got["swtpm"] == 0 {
		t.Fatalf("processes %v", got)
	}
	state := filepath.Join(m.TPMDir, "tpm2-00.permall")
	info, err := os.Stat(state)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the TPM's state: %v, %v", info, err)
	}

	// Nobody ends the emulator: QEMU's end is enough, whatever it was.
	if err := syscall.Kill(d.processes()["qemu-system-x86"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	reaches(t, d.find(), qemu.StateGone)
	if got := d.processes(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}

	// One that hangs is ended with its machine.
	d.start(m)
	if err := syscall.Kill(d.processes()["swtpm"], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	if got := d.processes(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestVariablesOfTheFirmwareOutliveARun(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	m.Firmware, m.VariablesPath = qemu.FirmwareEFI, filepath.Join(t.TempDir(), "vm", "EFI.fd")
	if _, has := d.options.Host.Flashes[m.Firmware]; !has {
		t.Skip("ovmf is not installed")
	}
	p, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	reaches(t, p, qemu.StateRunning)
	if err := d.Kill(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(m.VariablesPath)
	if err != nil || before.Mode().Perm() != 0o600 {
		t.Fatalf("the variables: %v, %v", before, err)
	}
	if _, err := d.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(m.VariablesPath); err != nil || !os.SameFile(before, after) {
		t.Errorf("the variables are made anew, %v", err)
	}
}

func TestAMachineThatTheHostCannotMakeIsRefusedByWhatItLacks(t *testing.T) {
	d := newDaemon(t)
	d.options.Host.TPM, d.options.Host.Flashes = "", nil
	d.restart()
	tpm, efi := d.machine(), d.machine()
	tpm.TPMDir = t.TempDir()
	efi.Firmware, efi.VariablesPath = qemu.FirmwareEFI, filepath.Join(t.TempDir(), "EFI.fd")
	for what, m := range map[string]qemu.Machine{"swtpm": tpm, "ovmf": efi} {
		if _, err := d.Start(t.Context(), m); !errors.Is(err, qemu.ErrLacking) || !strings.Contains(err.Error(), what) {
			t.Errorf("without %s: %v", what, err)
		}
	}
}

func TestAMachineKeepsWithinItsProcessorTime(t *testing.T) {
	d := newDaemon(t)
	tree, err := cgroup.Open("orlop-test-" + strconv.Itoa(os.Getpid()))
	if errors.Is(err, cgroup.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.options.Limits = tree
	d.restart()
	m := d.machine()
	m.CPU.MilliCPU = 500
	d.start(m)
	groups, err := os.ReadFile("/proc/" + strconv.Itoa(d.pid()) + "/cgroup")
	if err != nil || !strings.Contains(string(groups), "/"+filepath.Base(tree.Dir())+"/"+machineID) {
		t.Errorf("the process is in %s, %v", groups, err)
	}
	if err := d.Kill(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	// Only an empty folder can be removed.
	if err := os.Remove(tree.Dir()); err != nil {
		t.Error(err)
	}
}

func TestTheHostSaysWhatProcessorsThereAre(t *testing.T) {
	p := host(t).Processor
	if missing, known := p.Models["Nehalem"]; !known || len(missing) > 0 {
		t.Errorf("Nehalem: known %v, lacks %v", known, missing)
	}
	if !strings.Contains(" "+strings.Join(p.Features, " ")+" ", " sse4.2 ") {
		t.Errorf("features %v", p.Features)
	}
}
