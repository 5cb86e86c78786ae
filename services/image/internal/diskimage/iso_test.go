package diskimage_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/failure"
)

// tinyISO is a primary volume descriptor and a terminator.
func tinyISO(blocks uint32) []byte {
	iso := make([]byte, 20*2048)
	d := iso[16*2048:]
	d[0] = 1
	copy(d[1:], "CD001\x01")
	binary.LittleEndian.PutUint32(d[80:], blocks)
	binary.LittleEndian.PutUint16(d[128:], 2048)
	copy(iso[17*2048:], "\xffCD001\x01")
	return iso
}

func TestInspectTakesDiscs(t *testing.T) {
	hybrid := tinyISO(20)
	copy(hybrid[510:], "\x55\xaa")
	udf := make([]byte, 20*2048)
	copy(udf[16*2048:], "\x00BEA01\x01")
	for name, iso := range map[string][]byte{"plain": tinyISO(20), "hybrid": hybrid, "udf alone": udf} {
		t.Run(name, func(t *testing.T) {
			info, err := diskimage.Inspect(t.Context(), bytes.NewReader(iso), int64(len(iso)), diskimage.Limits{})
			want := diskimage.Info{Format: diskimage.ISO, VirtualBytes: int64(len(iso)), CDROM: true}
			if err != nil || info != want {
				t.Errorf("got %+v, %v; want %+v", info, err, want)
			}
		})
	}
}

func TestInspectRefusesCutDisc(t *testing.T) {
	iso := tinyISO(21)
	_, err := diskimage.Inspect(t.Context(), bytes.NewReader(iso), int64(len(iso)), diskimage.Limits{})
	if failure.ReasonOf(err) != diskimage.ReasonTruncated {
		t.Errorf("got %v, want %s", err, diskimage.ReasonTruncated)
	}
}

func TestInspectTakesDiscOfRealTool(t *testing.T) {
	if _, err := exec.LookPath("xorriso"); err != nil {
		t.Skip("xorriso is not installed (Debian package xorriso)")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disc.iso")
	out, err := exec.Command("xorriso", "-as", "mkisofs", "-quiet", "-J", "-o", path, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := inspect(t, path, diskimage.Limits{})
	if err != nil || !info.CDROM || info.Format != diskimage.ISO {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestDetectRefusesWhatIsNoDisk(t *testing.T) {
	cases := map[string]struct {
		head   string
		reason failure.Reason
	}{
		"web page":        {"\n<!DOCTYPE html><html>", diskimage.ReasonUnsupportedFormat},
		"zip":             {"PK\x03\x04....", diskimage.ReasonUnsupportedFormat},
		"tar":             {string(make([]byte, 257)) + "ustar\x00", diskimage.ReasonUnsupportedFormat},
		"vmdk descriptor": {"# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"/etc/passwd\" 0\n", diskimage.ReasonExternalExtent},
		"cowd":            {"COWD\x01", diskimage.ReasonUnsupportedFormat},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := diskimage.Detect([]byte(c.head)); failure.ReasonOf(err) != c.reason {
				t.Errorf("got %v, want %s", err, c.reason)
			}
		})
	}
}

func TestInspectRefusesEmptyAndTinyFiles(t *testing.T) {
	for size, reason := range map[int]failure.Reason{0: diskimage.ReasonEmpty, 3: diskimage.ReasonUnsupportedFormat} {
		_, err := diskimage.Inspect(t.Context(), bytes.NewReader(make([]byte, size)), int64(size), diskimage.Limits{})
		if failure.ReasonOf(err) != reason {
			t.Errorf("%d bytes: got %v, want %s", size, err, reason)
		}
	}
}
