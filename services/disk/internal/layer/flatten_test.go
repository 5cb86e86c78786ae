package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func always() bool { return true }

// newDeep is a store with a volume on a base and n layers, each of which wrote.
func newDeep(t *testing.T, n int) (*Store, string) {
	t.Helper()
	s, dir := newStore(t)
	base := newBase(t, "8M")
	must(t, s.Make(t.Context(), "a", &base, 8*mib))
	for i := range n {
		poke(t, s, "a", fmt.Sprintf("write -P %d %dK 100K", i+1, i*300), fmt.Sprintf("write -z %dK 64K", i*640))
		must(t, s.Freeze(t.Context(), Freezing{Volume: "a", Layer: fmt.Sprint("l", i)}))
	}
	return s, dir
}

func TestDeepVolumeIsFlattened(t *testing.T) {
	s, dir := newDeep(t, 5)
	before := content(t, s, "a")
	if deep, err := s.Deep(t.Context(), 6); err != nil || len(deep) != 1 || depth(t, s, "a") != 7 {
		t.Fatalf("deep are %v, %v", deep, err)
	}
	if done, err := s.Flatten(t.Context(), "a", 7, always); done || err != nil {
		t.Errorf("a volume within the bound was flattened: %v", err)
	}
	if done, err := s.Flatten(t.Context(), "a", 6, func() bool { return false }); done || err != nil {
		t.Errorf("a volume in use was flattened: %v", err)
	}
	if done, err := s.Flatten(t.Context(), "a", 6, always); !done || err != nil {
		t.Fatalf("flattened: %v, %v", done, err)
	}
	if content(t, s, "a") != before || depth(t, s, "a") != 2 {
		t.Errorf("the content changed, or %d files are left", depth(t, s, "a"))
	}
	volume, _, err := s.Lookup(t.Context(), "a")
	must(t, err)
	run(t, "qemu-img", "check", "-f", "qcow2", volume.Path)
	must(t, s.Remove(t.Context(), "a"))
	wantNothing(t, dir)
}

func TestFlatteningSparesWhatOthersNeed(t *testing.T) {
	s, dir := newDeep(t, 3)
	ctx := t.Context()
	must(t, s.Copy(ctx, "b", "a", 8*mib)) // both stand on a layer now
	for i := range 3 {
		poke(t, s, "a", fmt.Sprintf("write -P 9 %dM 64K", i))
		must(t, s.Freeze(ctx, Freezing{Volume: "a", Layer: fmt.Sprint("own", i)}))
	}
	a, b := content(t, s, "a"), content(t, s, "b")
	// base, l0, l1, l2, own0, own1, own2, top
	if depth(t, s, "a") != 8 {
		t.Fatalf("depth %d", depth(t, s, "a"))
	}
	if done, err := s.Flatten(ctx, "a", 7, always); !done || err != nil {
		t.Fatalf("flattened: %v, %v", done, err)
	}
	if depth(t, s, "a") != 5 || content(t, s, "a") != a || content(t, s, "b") != b {
		t.Errorf("%d files, or another content", depth(t, s, "a"))
	}
	if done, err := s.Flatten(ctx, "a", 4, always); !done || err != nil || depth(t, s, "a") != 2 {
		t.Errorf("%v, %v: %d files", done, err, depth(t, s, "a"))
	}
	if content(t, s, "a") != a || content(t, s, "b") != b {
		t.Error("another content")
	}
	for _, id := range []string{"a", "b"} {
		must(t, s.Remove(ctx, id))
	}
	wantNothing(t, dir)
}

// TestInterruptedFlatteningChangesNothingAfterwards begins one and wants the
// volume the moment it works.
func TestInterruptedFlatteningChangesNothingAfterwards(t *testing.T) {
	s, dir := newDeep(t, 4)
	before, files := content(t, s, "a"), entries(t, filepath.Join(dir, "volumes"))
	working, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Flatten(t.Context(), "a", 2, func() bool { close(working); return true })
		ended <- err
	}()
	<-working
	must(t, s.Interrupt(t.Context(), "a"))
	// From here on nothing may change under a VM.
	volume, _, err := s.Lookup(t.Context(), "a")
	must(t, err)
	if err := <-ended; err == nil {
		t.Error("the flattening was not cut short")
	}
	if again, _, err := s.Lookup(t.Context(), "a"); err != nil || again != volume {
		t.Errorf("the volume is %+v after it was %+v, %v", again, volume, err)
	}
	if content(t, s, "a") != before || entries(t, filepath.Join(dir, "volumes")) != files {
		t.Error("another content, or other files")
	}
}

func TestWriteDuringFlatteningWins(t *testing.T) {
	s, _ := newDeep(t, 3)
	ctx := t.Context()
	old, err := s.whole("a")
	must(t, err)
	m, err := s.merge(old, 2)
	must(t, err)
	before, err := fingerprint(s.filePath(old))
	must(t, err)
	fresh := record{VirtualBytes: old.VirtualBytes, File: newFile("a"), Base: m.below.Base, BaseFormat: m.below.BaseFormat, Made: true}
	must(t, s.writeMerged(ctx, m, fresh))
	poke(t, s, "a", "write -P 99 0 64K")
	if done, err := s.swap(ctx, "a", swapping{old: old, fresh: fresh, before: before}); done || err != nil {
		t.Fatalf("what was written is lost: %v, %v", done, err)
	}
	poke(t, s, "a", "read -P 99 0 64K")
	must(t, os.Remove(s.filePath(fresh)))
}

func TestRoomCountsWhatVolumesCanStillTake(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	empty, err := s.Room(ctx)
	must(t, err)
	must(t, s.Make(ctx, "a", nil, 1<<30))
	must(t, s.Copy(ctx, "b", "a", 1<<30))
	room, err := s.Room(ctx)
	must(t, err)
	if room.Free <= 0 || empty.Promised != 0 || room.Promised > 2<<30 || room.Promised < 2<<30-4*mib {
		t.Errorf("room is %+v, was %+v", room, empty)
	}
	tight := Room{Free: 10, Promised: 15}
	if !tight.Fits(5, 2) || tight.Fits(6, 2) || tight.Fits(0, 1) {
		t.Error("Fits counts wrong")
	}
}
