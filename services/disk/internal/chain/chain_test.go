package chain_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/disk/internal/chain"
	"orlop.dev/services/disk/internal/jail"
	"orlop.dev/services/disk/internal/qcow2"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
	return string(output)
}

// newChain is a disk of three files: a raw image with holes, and two layers that
// write, clear and grow.
func newChain(t *testing.T) chain.Chain {
	t.Helper()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-utils is not installed: make setup installs it")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run(t, "truncate", "-s", "8M", at("base"))
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 3M", "-c", "write -P 2 5000K 4K", at("base"))
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", at("middle"), "16M")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 512K", "-c", "write -z 2M 256K", "-c", "write -P 4 10M 64K", at("middle"))
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", at("top"), "1200777216")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 5 1088K 4K", "-c", "write -z 10M 64K", "-c", "write -P 6 1200776192 512", at("top"))
	return chain.Chain{{Path: at("top"), Format: "qcow2"}, {Path: at("middle"), Format: "qcow2"}, {Path: at("base"), Format: "raw"}}
}

func open(t *testing.T, c chain.Chain) *chain.Reader {
	t.Helper()
	reader, err := chain.Open(t.Context(), c, chain.Idle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	return reader
}

// write makes the planned file.
func write(t *testing.T, plan *qcow2.Plan, disk io.ReaderAt, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(file, io.NewSectionReader(plan.Reader(disk), 0, plan.Bytes()))
	if err = errors.Join(err, file.Close()); err != nil || n != plan.Bytes() {
		t.Fatalf("%d bytes of %d, %v", n, plan.Bytes(), err)
	}
	run(t, "qemu-img", "check", "-f", "qcow2", path)
}

func TestWholeChainBecomesOneFile(t *testing.T) {
	c := newChain(t)
	runs, size, err := c.Allocated(t.Context(), chain.Usual)
	if err != nil || size != 1200777216 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	plan, err := qcow2.New(size, runs, nil)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	write(t, plan, open(t, c), copied)
	run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", c[0].Path, copied)
	if plan.Bytes() > 8<<20 {
		t.Errorf("the holes are stored: %d bytes", plan.Bytes())
	}
}

func TestUpperFilesBecomeOneFileOnTheLowest(t *testing.T) {
	c := newChain(t)
	runs, size, err := c.Above(t.Context(), chain.Idle, 2)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := qcow2.New(size, runs, &qcow2.Backing{Name: "base", Format: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(filepath.Dir(c[0].Path), "merged")
	write(t, plan, open(t, c), merged)
	run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", c[0].Path, merged)
	if plan.Bytes() > 2<<20 {
		t.Errorf("what the base has is stored again: %d bytes", plan.Bytes())
	}
}

func TestFileReadsTheSameFromAnyOffset(t *testing.T) {
	c := newChain(t)
	runs, size, err := c.Allocated(t.Context(), chain.Usual)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := qcow2.New(size, runs, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := plan.Reader(open(t, c))
	whole := make([]byte, plan.Bytes())
	if _, err := file.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 200_001)
	for offset := int64(1); offset < plan.Bytes(); offset += 99_991 {
		n, err := file.ReadAt(part, offset)
		if short := n < len(part); short != errors.Is(err, io.EOF) || err != nil && !short {
			t.Fatalf("%d bytes at %d, %v", n, offset, err)
		}
		if !bytes.Equal(part[:n], whole[offset:offset+int64(n)]) {
			t.Fatalf("another content at %d", offset)
		}
	}
}

func TestBackingNameInAFileIsNotFollowed(t *testing.T) {
	c := newChain(t)
	reader := open(t, c[1:2]) // its header names the base
	b := make([]byte, 4096)
	if _, err := reader.ReadAt(b, 0); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("read %v, %v", b[:8], err)
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	c := newChain(t)
	ctx, cancel := context.WithCancel(t.Context())
	reader, err := chain.Open(ctx, c, chain.Usual)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	if _, err := reader.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("it still reads")
	}
}

func TestUnreadableChainSaysWhy(t *testing.T) {
	c := newChain(t)
	if err := os.WriteFile(c[1].Path, []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := new(jail.Error)
	if _, err := chain.Open(t.Context(), c, chain.Usual); !errors.As(err, &failed) || failed.Words == "" {
		t.Errorf("Open says %v", err)
	}
	if _, _, err := c.Allocated(t.Context(), chain.Usual); !errors.As(err, &failed) {
		t.Errorf("Allocated says %v", err)
	}
}
