package rootdisk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/deploy/guest/internal/rootdisk"
)

const mebibyte = 1 << 20

// newDisk makes a partitioned file with the tool that the images are made with.
func newDisk(t *testing.T, script string, grownTo int64) *os.File {
	t.Helper()
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk is not installed: run make setup")
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 16*mebibyte); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("sfdisk", "--quiet", path)
	command.Stdin = strings.NewReader(script)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, output)
	}
	if err := os.Truncate(path, grownTo); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestExtendReachesTheEndOnce(t *testing.T) {
	disk := newDisk(t, "label: dos\nstart=2048,size=4096,type=ef\nstart=6144,type=83\n", 64*mebibyte)
	start, sectors, changed, err := rootdisk.Extend(disk, 64*mebibyte, 2)
	if err != nil || start != 6144 || sectors != 64*2048-6144 || !changed {
		t.Fatalf("got %d+%d, %v, %v", start, sectors, changed, err)
	}
	if _, _, changed, err := rootdisk.Extend(disk, 64*mebibyte, 2); err != nil || changed {
		t.Errorf("the second time: %v, %v", changed, err)
	}
	output, err := exec.Command("sfdisk", "--dump", disk.Name()).CombinedOutput()
	if err != nil || !strings.Contains(string(output), "124928, type=83") {
		t.Errorf("sfdisk reads: %v: %s", err, output)
	}
}

func TestExtendRefuses(t *testing.T) {
	disk := newDisk(t, "label: dos\nstart=2048,size=4096,type=83\nstart=6144,type=83\n", 64*mebibyte)
	if _, _, _, err := rootdisk.Extend(disk, 64*mebibyte, 1); !errors.Is(err, rootdisk.ErrNotLast) {
		t.Errorf("a partition with another behind it: %v", err)
	}
	if _, _, _, err := rootdisk.Extend(disk, 64*mebibyte, 5); err == nil {
		t.Error("a logical partition was accepted")
	}
}

func TestFileSystemBytesReadsTheSuperblock(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("mke2fs is not installed: run make setup")
	}
	path := filepath.Join(t.TempDir(), "fs")
	for _, block := range []string{"1024", "4096"} {
		if output, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-b", block, path, "12m").CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v: %s", err, output)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		bytes, err := rootdisk.FileSystemBytes(file)
		file.Close()
		if err != nil || bytes != 12*mebibyte {
			t.Errorf("blocks of %s: got %d, %v", block, bytes, err)
		}
	}
	if _, err := rootdisk.FileSystemBytes(strings.NewReader(strings.Repeat("x", 4096))); !errors.Is(err, rootdisk.ErrNotExt4) {
		t.Errorf("a disk of x: %v", err)
	}
}
