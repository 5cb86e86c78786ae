package layer

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// small is a store on a file system of 8 MiB, with a volume of three files.
type small struct {
	t    *testing.T
	dir  string
	s    *Store
	base Base
}

func newSmall(t *testing.T) *small {
	t.Helper()
	_, _ = newStore(t) // skips where qemu-img is missing
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("no small file system can be mounted: %v: run as root", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	s, err := Open(filepath.Join(dir, "store"), slog.New(slog.DiscardHandler))
	must(t, err)
	f := &small{t: t, dir: dir, s: s, base: newBase(t, "8M")}
	must(t, s.Make(t.Context(), "a", &f.base, 16*mib))
	poke(t, s, "a", "write -P 1 0 1M")
	must(t, s.Freeze(t.Context(), Freezing{Volume: "a", Layer: "l"}))
	poke(t, s, "a", "write -P 2 2M 512K")
	return f
}

// fill leaves that many bytes, and returns how to get the rest back.
func (f *small) fill(leave int64) (free func()) {
	f.t.Helper()
	var stat unix.Statfs_t
	must(f.t, unix.Statfs(f.dir, &stat))
	path := filepath.Join(f.dir, "filler")
	must(f.t, os.WriteFile(path, make([]byte, int64(stat.Bavail)*stat.Bsize-leave), 0o600))
	return func() { must(f.t, os.Remove(path)) }
}

type fullStep struct {
	name string
	do   func() error
}

func TestFullFileSystemIsToldAndLeavesNothing(t *testing.T) {
	f := newSmall(t)
	before := content(t, f.s, "a")
	other := newBase(t, "8M")
	other.Digest = "sha256:4567"
	must(t, f.s.Make(t.Context(), "grows", nil, 1*mib))
	for _, step := range []fullStep{
		{"make", func() error { return f.s.Make(t.Context(), "new", nil, 16*mib) }},
		{"copy in", func() error { return f.s.Make(t.Context(), "new", &other, 16*mib) }},
		{"clone", func() error { return f.s.Copy(t.Context(), "new", "a", 16*mib) }},
		{"flatten", func() error { _, err := f.s.Flatten(t.Context(), "a", 2, always); return err }},
		{"grow", func() error { return f.s.Grow(t.Context(), "grows", 64<<40) }},
	} {
		for _, leave := range []int64{0, 4 << 10, 32 << 10, 200 << 10} {
			files := f.files()
			free := f.fill(leave)
			err := step.do()
			if err == nil { // it had room enough
				free()
				must(t, f.s.Remove(t.Context(), "new"))
				break
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s with %d bytes left: %v", step.name, leave, err)
			}
			free()
			if now := f.files(); now != files {
				t.Errorf("%s with %d bytes left leaves %d files, there were %d", step.name, leave, now, files)
			}
			if content(t, f.s, "a") != before {
				t.Errorf("%s with %d bytes left changed a volume", step.name, leave)
			}
		}
		if err := step.do(); err != nil {
			t.Errorf("%s with room again: %v", step.name, err)
		}
		must(t, f.s.Remove(t.Context(), "new"))
	}
	must(t, f.s.Remove(t.Context(), "a"))
	must(t, f.s.Remove(t.Context(), "grows"))
	wantNothing(t, filepath.Join(f.dir, "store"))
}

func (f *small) files() int {
	found, err := filepath.Glob(filepath.Join(f.dir, "store", "*", "*"))
	must(f.t, err)
	return len(found)
}
