package layer

import (
	"fmt"
	"testing"
)

// stream does what QEMU does: it copies what lies between into a volume's own
// file, which then stands on something lower.
func stream(t *testing.T, s *Store, id, lower, format string) {
	t.Helper()
	volume, _, err := s.Lookup(t.Context(), id)
	must(t, err)
	run(t, "qemu-img", "rebase", "-f", "qcow2", "-b", lower, "-F", format, volume.Path)
}

func (s *Store) pathOf(t *testing.T, layer string) string {
	t.Helper()
	l, found, err := s.Layer(t.Context(), layer)
	if err != nil || !found {
		t.Fatalf("layer %s: %t, %v", layer, found, err)
	}
	return l.Path
}

func TestAVolumeThatWasShortenedIsFollowed(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	base := newBase(t, "8M")
	must(t, s.Make(ctx, "a", &base, 8*mib))
	for i := range 6 {
		poke(t, s, "a", fmt.Sprintf("write -P %d %dK 100K", i+1, i*300))
		must(t, s.Freeze(ctx, Freezing{Volume: "a", Layer: fmt.Sprint("l", i), Keep: i == 4}))
	}
	before := content(t, s, "a")
	if followed, err := s.Follow(ctx, "a"); followed || err != nil {
		t.Errorf("followed to where it was: %v", err)
	}
	stream(t, s, "a", s.pathOf(t, "l1"), "qcow2")
	if followed, err := s.Follow(ctx, "a"); !followed || err != nil || depth(t, s, "a") != 4 || content(t, s, "a") != before {
		t.Fatalf("followed: %t, %v; it has %d files", followed, err, depth(t, s, "a"))
	}
	// What a snapshot needs stays; what nobody needs is gone.
	for layer, want := range map[string]bool{"l0": true, "l1": true, "l2": true, "l3": true, "l4": true, "l5": false} {
		if _, found, err := s.Layer(ctx, layer); err != nil || found != want {
			t.Errorf("layer %s: %t, %v", layer, found, err)
		}
	}
	must(t, s.Drop(ctx, "l4"))
	if _, found, err := s.Layer(ctx, "l2"); err != nil || found {
		t.Errorf("l2 stays: %v", err)
	}
	if content(t, s, "a") != before {
		t.Error("another content")
	}
	must(t, s.Remove(ctx, "a"))
	wantNothing(t, dir)
}

func TestALayerThatWasShortenedBeforeItWasFrozenIsFollowed(t *testing.T) {
	s, dir := newDeep(t, 4)
	ctx := t.Context()
	before := content(t, s, "a")
	stream(t, s, "a", s.pathOf(t, "l0"), "qcow2")
	must(t, s.Freeze(ctx, Freezing{Volume: "a", Layer: "new", Keep: true}))
	if followed, err := s.Follow(ctx, "a"); !followed || err != nil || depth(t, s, "a") != 4 || content(t, s, "a") != before {
		t.Fatalf("followed: %t, %v; it has %d files", followed, err, depth(t, s, "a"))
	}
	must(t, s.Drop(ctx, "new"))
	must(t, s.Remove(ctx, "a"))
	wantNothing(t, dir)
}

func TestAFileThatStandsOnAStrangerIsNotFollowed(t *testing.T) {
	s, _ := newDeep(t, 2)
	stranger := newBase(t, "8M")
	volume, _, err := s.Lookup(t.Context(), "a")
	must(t, err)
	run(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-b", stranger.Path, "-F", "qcow2", volume.Path)
	if followed, err := s.Follow(t.Context(), "a"); followed || err == nil {
		t.Errorf("followed: %t, %v", followed, err)
	}
}
