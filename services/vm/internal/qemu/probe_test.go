package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/services/vm/internal/qemu"
)

func TestProbeFindsThisHost(t *testing.T) {
	h := host(t)
	if h.Version.Major < 9 || !filepath.IsAbs(h.Binary) || !strings.HasPrefix(h.MachineType, "pc-q35-") {
		t.Errorf("host %+v", h)
	}
	if h.Accelerator != qemu.AcceleratorKVM && h.Accelerator != qemu.AcceleratorTCG {
		t.Errorf("accelerator %q", h.Accelerator)
	}
	if !strings.HasSuffix(h.Reason, ".") {
		t.Errorf("reason %q is no sentence", h.Reason)
	}
}

func TestKVMNeedsTheProcessorTheDeviceAndAGuestThatRuns(t *testing.T) {
	host(t)
	folder := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "processor\t: 0\nflags\t\t: fpu sse2 vmxish\n\nbugs\t: vmx\n")
	virtual := write("virtual", "processor\t: 0\nflags\t\t: fpu svm sse2\n")
	notKVM := write("kvm", "")
	tests := map[string]struct {
		prober qemu.Prober
		reason string
	}{
		"no vmx or svm":            {qemu.Prober{CPUInfo: plain, KVM: notKVM}, "neither vmx nor svm"},
		"no processor information": {qemu.Prober{CPUInfo: filepath.Join(folder, "none"), KVM: notKVM}, "neither vmx nor svm"},
		"no device":                {qemu.Prober{CPUInfo: virtual, KVM: filepath.Join(folder, "none")}, "can't be opened"},
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		// QEMU always opens the real device.
		tests["a device under which nothing runs"] = struct {
			prober qemu.Prober
			reason string
		}{qemu.Prober{CPUInfo: virtual, KVM: notKVM}, "did not finish"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h, err := test.prober.Probe(t.Context(), qemu.DefaultBinary)
			if err != nil || h.Accelerator != qemu.AcceleratorTCG || !strings.Contains(h.Reason, test.reason) {
				t.Errorf("%s: %s, %v", h.Accelerator, h.Reason, err)
			}
		})
	}
}

// fake is a QEMU that gives the same answers whatever it is asked.
func fake(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const fakeAnswers = `cat <<'END'
{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":22}}}}
{"return":{}}
{"return":[{"name":"pc-q35-7.2","alias":"q35"},{"name":"pc-i440fx-7.2","alias":"pc"}]}
{"return":[{"name":"qemu64","unavailable-features":[]}]}
{"return":{"model":{"name":"max","props":{"sse2":true}}}}
{"return":{}}
END
`

func TestAnOldQEMUIsRefused(t *testing.T) {
	_, err := qemu.Probe(t.Context(), fake(t, fakeAnswers))
	var old *qemu.VersionError
	if !errors.As(err, &old) || old.Have.String() != "7.2.22" {
		t.Errorf("error %v", err)
	}
}

func TestAQEMUWithoutSeccompIsUsedWithoutIt(t *testing.T) {
	script := `for a in "$@"; do [ "$a" = -sandbox ] && { echo "no sandbox" >&2; exit 1; }; done
` + strings.Replace(fakeAnswers, `"major":7`, `"major":9`, 1)
	h, err := qemu.Prober{CPUInfo: os.DevNull}.Probe(t.Context(), fake(t, script))
	if err != nil || h.Sandbox || h.MachineType != "pc-q35-7.2" {
		t.Errorf("host %+v, %v", h, err)
	}
}

func TestAProgramThatIsNotQEMUIsAnErrorWithItsWords(t *testing.T) {
	_, err := qemu.Probe(t.Context(), fake(t, "echo what do you want >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "what do you want") {
		t.Errorf("error %v", err)
	}
	if _, err := qemu.Probe(t.Context(), "no-such-qemu"); err == nil {
		t.Error("a program that is not there was probed")
	}
}
