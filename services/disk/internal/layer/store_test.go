package layer

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func newStore(t *testing.T) (*Store, string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: make setup installs it")
	}
	dir := t.TempDir()
	store, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return store, dir
}

// newBase writes a qcow2 image with some content, as an import leaves it.
func newBase(t *testing.T, virtualBytes string) Base {
	t.Helper()
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "blob")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("orlop"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "-s", virtualBytes, raw)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
	return Base{Digest: "sha256:0123", Path: path, Format: "qcow2"}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
	return string(output)
}

func TestEmptyVolumeHasItsSize(t *testing.T) {
	store, _ := newStore(t)
	ctx := context.Background()
	if err := store.Make(ctx, "a", nil, 100<<20); err != nil {
		t.Fatal(err)
	}
	volume, found, err := store.Lookup(ctx, "a")
	if err != nil || !found || volume.VirtualBytes != 100<<20 {
		t.Fatalf("got %+v, %v, %v", volume, found, err)
	}
	run(t, "qemu-img", "check", "-f", "qcow2", volume.Path)
}

func TestVolumeShowsItsBaseEvenIfTheBlobIsGone(t *testing.T) {
	store, dir := newStore(t)
	ctx := context.Background()
	base := newBase(t, "8M")
	if err := store.Make(ctx, "a", &base, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(base.Path); err != nil {
		t.Fatal(err)
	}
	volume, _, err := store.Lookup(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(dir, "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", volume.Path, raw)
	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) != 16<<20 || !bytes.HasPrefix(content, []byte("orloporlop")) {
		t.Errorf("the volume has %d bytes and begins with %q", len(content), content[:10])
	}
}

func TestBaseGoesWithTheLastVolume(t *testing.T) {
	store, dir := newStore(t)
	ctx := context.Background()
	base := newBase(t, "1M")
	for _, id := range []string{"a", "b"} {
		if err := store.Make(ctx, id, &base, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if n := entries(t, filepath.Join(dir, "bases")); n != 1 {
		t.Errorf("%d bases are left while a volume stands on one", n)
	}
	if err := store.Remove(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, dir)
}

func TestGrowNeverShrinks(t *testing.T) {
	store, _ := newStore(t)
	ctx := context.Background()
	if err := store.Make(ctx, "a", nil, 2<<20); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{4 << 20, 1 << 20} {
		if err := store.Grow(ctx, "a", size); err != nil {
			t.Fatal(err)
		}
		if volume, _, _ := store.Lookup(ctx, "a"); volume.VirtualBytes != 4<<20 {
			t.Errorf("after Grow to %d the volume has %d bytes", size, volume.VirtualBytes)
		}
	}
}

// TestKilledMakeIsMadeAgain plays a process that died after its record was
// written and in the middle of its file.
func TestKilledMakeIsMadeAgain(t *testing.T) {
	store, dir := newStore(t)
	ctx := context.Background()
	// As an earlier version wrote it.
	if err := os.WriteFile(filepath.Join(dir, "volumes", "a.json"), []byte(`{"virtualBytes":1048576}`), 0o600); err != nil {
		t.Fatal(err)
	}
	partial := filepath.Join(dir, "volumes", "a.qcow2"+partialSuffix)
	if err := os.WriteFile(partial, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := Open(dir, store.logger)
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := store.Lookup(ctx, "a"); found || err != nil {
		t.Fatalf("half a volume was found (%v)", err)
	}
	if _, err := os.Stat(partial); err == nil {
		t.Error("the half-made file is still there")
	}
	if err := store.Make(ctx, "a", nil, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, found, err := store.Lookup(ctx, "a"); !found || err != nil {
		t.Fatalf("found: %v, %v", found, err)
	}
}

func entries(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func wantNothing(t *testing.T, dir string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBaseThatNobodyNeedsGoes(t *testing.T) {
	store, dir := newStore(t)
	ctx := context.Background()
	first, second := newBase(t, "8M"), newBase(t, "8M")
	second.Digest = "sha256:4567"
	bases := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, "bases"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	// A process that was killed while it made a volume left its record and base.
	if err := store.begin("a", record{VirtualBytes: 8 << 20, File: newFile("a"), Base: baseName(first), BaseFormat: "qcow2"}); err != nil {
		t.Fatal(err)
	}
	if err := store.pin(first); err != nil {
		t.Fatal(err)
	}
	if err := store.Make(ctx, "a", &second, 8<<20); err != nil {
		t.Fatal(err)
	}
	if got := bases(); got != 1 {
		t.Errorf("%d bases are kept for one volume", got)
	}
	// One that was killed while it removed a volume left its base alone.
	if err := os.Remove(store.recordPath(store.volumes(), "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, store.logger); err != nil {
		t.Fatal(err)
	}
	if got := bases(); got != 0 {
		t.Errorf("%d bases are kept for no volume", got)
	}
}

func TestCopiedBaseIsWhole(t *testing.T) {
	base := newBase(t, "8M")
	target := filepath.Join(t.TempDir(), "copy")
	done := make(chan error, 4)
	for range cap(done) {
		go func() { done <- copyFile(base.Path, target) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want, err := os.ReadFile(base.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}
