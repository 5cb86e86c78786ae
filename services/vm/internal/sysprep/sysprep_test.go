package sysprep_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/services/vm/internal/sysprep"
)

// The volume is read by isoinfo, which is not ours.
func TestAnswersHaveTheNamesThatWindowsLooksFor(t *testing.T) {
	if _, err := exec.LookPath("isoinfo"); err != nil {
		t.Skip("isoinfo (package genisoimage) is not installed")
	}
	path := filepath.Join(t.TempDir(), "answers.iso")
	if err := sysprep.Write(path, sysprep.Answers{Unattend: []byte("<unattend/>")}); err != nil {
		t.Fatal(err)
	}
	for _, names := range []string{"-J", "-R"} {
		out, err := exec.Command("isoinfo", "-i", path, names, "-x", "/Unattend.xml").Output()
		if err != nil || string(out) != "<unattend/>" {
			t.Errorf("%s: %q, %v", names, out, err)
		}
	}
	out, err := exec.Command("isoinfo", "-i", path, "-f").Output()
	if err != nil || strings.TrimSpace(string(out)) != "/UNATTEND.XML;1" {
		t.Errorf("plain names: %q, %v", out, err)
	}
}
