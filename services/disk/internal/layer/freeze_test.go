package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"orlop.dev/services/disk/internal/chain"
)

const mib = 1 << 20

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// poke writes into a volume as a guest would.
func poke(t *testing.T, s *Store, id string, commands ...string) {
	t.Helper()
	volume, found, err := s.Lookup(t.Context(), id)
	if err != nil || !found {
		t.Fatalf("volume %s: %v, %v", id, found, err)
	}
	args := []string{"-f", "qcow2"}
	for _, command := range commands {
		args = append(args, "-c", command)
	}
	run(t, "qemu-io", append(args, volume.Path)...)
}

// content is the SHA-256 of what a volume shows, read by the names in the files
// as a VM does.
func content(t *testing.T, s *Store, id string) string {
	t.Helper()
	volume, found, err := s.Lookup(t.Context(), id)
	if err != nil || !found || volume.Lost {
		t.Fatalf("volume %s: %+v, %v, %v", id, volume, found, err)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", volume.Path, raw)
	return fileSum(t, raw)
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	must(t, err)
	return hex.EncodeToString(hash.Sum(nil))
}

func depth(t *testing.T, s *Store, id string) int {
	t.Helper()
	pieces, err := s.Pieces(t.Context(), id)
	must(t, err)
	return len(pieces)
}

func TestFrozenLayerNeverChanges(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	base := newBase(t, "8M")
	must(t, s.Make(ctx, "a", &base, 8*mib))
	poke(t, s, "a", "write -P 1 1M 64K")
	before := content(t, s, "a")
	for range 2 { // once more changes nothing
		must(t, s.Freeze(ctx, Freezing{Volume: "a", Layer: "snapshot", Keep: true}))
	}
	if got := content(t, s, "a"); got != before {
		t.Error("the volume changed by being frozen")
	}
	poke(t, s, "a", "write -P 2 1M 64K", "write -P 2 5M 1M")
	must(t, s.Clone(ctx, "b", "snapshot", 16*mib))
	poke(t, s, "b", "write -P 3 12M 64K")
	must(t, s.Clone(ctx, "c", "snapshot", 8*mib))
	if got := content(t, s, "c"); got != before {
		t.Error("a clone shows what was written after the freeze")
	}
	after := content(t, s, "a")
	must(t, s.Remove(ctx, "b"))
	must(t, s.Remove(ctx, "c"))
	if content(t, s, "a") != after {
		t.Error("the volume changed when clones went")
	}
	must(t, s.Remove(ctx, "a"))
	must(t, s.Clone(ctx, "d", "snapshot", 8*mib))
	if content(t, s, "d") != before {
		t.Error("the layer that is kept changed when its volume went")
	}
	must(t, s.Remove(ctx, "d"))
	must(t, s.Drop(ctx, "snapshot"))
	must(t, s.Drop(ctx, "snapshot"))
	wantNothing(t, dir)
}

func TestCopyStandsOnWhatItCopies(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	must(t, s.Make(ctx, "a", nil, 4*mib))
	poke(t, s, "a", "write -P 7 0 1M")
	for range 2 {
		must(t, s.Copy(ctx, "b", "a", 4*mib))
	}
	if content(t, s, "a") != content(t, s, "b") {
		t.Error("the copy differs")
	}
	pieces, err := s.Pieces(ctx, "b")
	must(t, err)
	if len(pieces) != 2 || pieces[1].Kind != Frozen || len(pieces[1].Users) != 1 || pieces[1].Users[0] != "a" || pieces[1].OwnBytes < mib {
		t.Errorf("the copy is made of %+v", pieces)
	}
	must(t, s.Remove(ctx, "a"))
	poke(t, s, "b", "read -P 7 0 1M")
	must(t, s.Remove(ctx, "b"))
	wantNothing(t, dir)
	if err := s.Copy(ctx, "c", "a", mib); !errors.Is(err, ErrNoVolume) {
		t.Errorf("a copy of nothing: %v", err)
	}
	if err := s.Clone(ctx, "c", "none", mib); !errors.Is(err, ErrNoLayer) {
		t.Errorf("a clone of nothing: %v", err)
	}
}

func TestManyCopiesMakeAVolumeNoDeeper(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	must(t, s.Make(ctx, "a", nil, 4*mib))
	want := map[string]string{}
	for round, command := range []string{"write -P 1 0 64K", "write -z 0 64K", "write -P 2 3M 512"} {
		poke(t, s, "a", command)
		for i := range 3 {
			id := fmt.Sprint(round, i)
			must(t, s.Copy(ctx, id, "a", 4*mib))
			want[id] = content(t, s, "a")
		}
		if got := depth(t, s, "a"); got != 2+round {
			t.Errorf("the volume has %d files after %d rounds", got, round+1)
		}
	}
	for id, sum := range want {
		if content(t, s, id) != sum {
			t.Errorf("copy %s has another content", id)
		}
		must(t, s.Remove(ctx, id))
	}
	must(t, s.Remove(ctx, "a"))
	wantNothing(t, dir)
}

// TestOnlineFreezeGoesOnWhereItFailed plays the VM that switches files.
func TestOnlineFreezeGoesOnWhereItFailed(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	must(t, s.Make(ctx, "a", nil, 4*mib))
	old, _, err := s.Lookup(ctx, "a")
	must(t, err)
	guest, err := chain.Open(ctx, chain.Chain{{Path: old.Path, Format: Format}}, chain.Usual)
	must(t, err)
	freezing := Freezing{Volume: "a", Layer: "l", Keep: true}
	begun, err := s.BeginFreeze(ctx, freezing)
	must(t, err)
	if err := s.Clone(ctx, "b", "l", 4*mib); !errors.Is(err, ErrBusy) {
		t.Errorf("a clone of what may still be written: %v", err)
	}
	if err := s.EndFreeze(ctx, "a", "l", false); !errors.Is(err, ErrBusy) {
		t.Errorf("a VM has the file open: %v", err)
	}
	s, err = Open(dir, s.logger) // the process died
	must(t, err)
	again, err := s.BeginFreeze(ctx, freezing)
	if err != nil || again != begun {
		t.Errorf("it is %+v, and was %+v, %v", again, begun, err)
	}
	if volume, _, err := s.Lookup(ctx, "a"); err != nil || volume.Path != begun.Path {
		t.Errorf("the VM is to write to %s, the volume is %+v, %v", begun.Path, volume, err)
	}
	for range 2 {
		must(t, s.EndFreeze(ctx, "a", "l", true))
	}
	must(t, s.Clone(ctx, "b", "l", 4*mib))
	must(t, guest.Close())
}

func TestVolumeThatIsOpenIsLeftAlone(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	must(t, s.Make(ctx, "a", nil, 4*mib))
	volume, _, err := s.Lookup(ctx, "a")
	must(t, err)
	reader, err := chain.Open(ctx, chain.Chain{{Path: volume.Path, Format: Format}}, chain.Usual)
	must(t, err)
	if err := s.Freeze(ctx, Freezing{Volume: "a", Layer: "l"}); !errors.Is(err, ErrBusy) {
		t.Errorf("it is frozen: %v", err)
	}
	if err := s.Grow(ctx, "a", 8*mib); !errors.Is(err, ErrBusy) {
		t.Errorf("it grows: %v", err)
	}
	must(t, reader.Close())
	must(t, s.Grow(ctx, "a", 8*mib))
}

// TestHomeOfAnEarlierVersionWorks has a volume as it used to be written.
func TestHomeOfAnEarlierVersionWorks(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	base := newBase(t, "8M")
	must(t, os.Link(base.Path, filepath.Join(dir, "bases", "sha256-0123.qcow2")))
	path := filepath.Join(dir, "volumes", "a.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "../bases/sha256-0123.qcow2", "-F", "qcow2", path, "16M")
	text := fmt.Sprintf(`{"virtualBytes":%d,"base":"sha256-0123.qcow2","baseFormat":"qcow2"}`, 16*mib)
	must(t, os.WriteFile(filepath.Join(dir, "volumes", "a.json"), []byte(text), 0o600))
	s, err := Open(dir, s.logger)
	must(t, err)
	volume, found, err := s.Lookup(ctx, "a")
	if err != nil || !found || volume.Path != path || volume.VirtualBytes != 16*mib {
		t.Fatalf("%+v, %v, %v", volume, found, err)
	}
	before := content(t, s, "a")
	must(t, s.Copy(ctx, "b", "a", 16*mib))
	if content(t, s, "b") != before || content(t, s, "a") != before {
		t.Error("another content")
	}
	for _, id := range []string{"a", "b"} {
		must(t, s.Remove(ctx, id))
	}
	wantNothing(t, dir)
}

func TestLostVolumeIsToldAndRemoved(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	base := newBase(t, "8M")
	must(t, s.Make(ctx, "a", &base, 8*mib))
	must(t, s.Copy(ctx, "b", "a", 8*mib))
	volume, _, err := s.Lookup(ctx, "a")
	must(t, err)
	must(t, os.Remove(volume.Path))
	s, err = Open(dir, s.logger)
	must(t, err)
	if volume, found, err := s.Lookup(ctx, "a"); err != nil || !found || !volume.Lost {
		t.Errorf("%+v, %v, %v", volume, found, err)
	}
	if volume, found, err := s.Lookup(ctx, "b"); err != nil || !found || volume.Lost {
		t.Errorf("%+v, %v, %v", volume, found, err)
	}
	must(t, os.Remove(filepath.Join(dir, "bases", baseName(base))))
	if volume, found, err := s.Lookup(ctx, "b"); err != nil || !found || !volume.Lost {
		t.Errorf("%+v, %v, %v", volume, found, err)
	}
	for _, id := range []string{"a", "b"} {
		must(t, s.Remove(ctx, id))
	}
	wantNothing(t, dir)
}
