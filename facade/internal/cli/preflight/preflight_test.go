package preflight_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/facade/internal/cli/preflight"
)

// emulator is a program that says what QEMU says about its version.
func emulator(t *testing.T, answer string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	script := fmt.Sprintf("#!/bin/sh\necho '%s'\n", answer)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil { //nolint:gosec // it must run
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, m preflight.Machine, subject string) preflight.Finding {
	t.Helper()
	for _, f := range m.Check(t.Context()) {
		if f.Subject == subject {
			return f
		}
	}
	t.Fatalf("nothing was said about %s", subject)
	return preflight.Finding{}
}

func TestQEMUMustBeThereAndNewEnough(t *testing.T) {
	for _, test := range []struct {
		name, binary string
		want         preflight.Severity
		word         string // of the sentence
	}{
		{"new", emulator(t, "QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), preflight.Good, "10.0.2"},
		{"oldest", emulator(t, "QEMU emulator version 9.0.0"), preflight.Good, "9.0.0"},
		{"too old", emulator(t, "QEMU emulator version 7.2.9"), preflight.Fatal, "make setup"},
		{"something else", emulator(t, "hello"), preflight.Fatal, "--qemu"},
		{"missing", filepath.Join(t.TempDir(), "qemu"), preflight.Fatal, "make setup"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := find(t, preflight.Machine{Home: t.TempDir(), QEMU: test.binary}, "QEMU")
			if f.Severity != test.want || !strings.Contains(f.Sentence, test.word) {
				t.Errorf("got %s: %s", f.Severity, f.Sentence)
			}
		})
	}
}

func TestMissingKVMIsALimitAndNoFailure(t *testing.T) {
	f := find(t, preflight.Machine{Home: t.TempDir(), QEMU: "none", KVM: filepath.Join(t.TempDir(), "kvm")}, "KVM")
	if f.Severity != preflight.Limited || !strings.Contains(f.Sentence, "would change it") {
		t.Errorf("got %s: %s", f.Severity, f.Sentence)
	}
}

func TestDiskSpaceIsThatOfTheNearestFolder(t *testing.T) {
	dir := t.TempDir()
	f := find(t, preflight.Machine{Home: filepath.Join(dir, "not", "yet"), QEMU: "none"}, "disk space")
	if !strings.Contains(f.Sentence, dir) {
		t.Errorf("got %s: %s", f.Severity, f.Sentence)
	}
}
