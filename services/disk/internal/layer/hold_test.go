package layer

import (
	"os"
	"path/filepath"
	"testing"
)

func held(t *testing.T, s *Store, name string) Held {
	t.Helper()
	h, found, err := s.Held(t.Context(), name)
	if err != nil || !found || h.Lost {
		t.Fatalf("%s: %+v, %v, %v", name, h, found, err)
	}
	return h
}

func TestFileIsHeldUntilItIsLetGo(t *testing.T) {
	s, dir := newStore(t)
	ctx, base := t.Context(), newBase(t, "8M")
	for range 2 {
		must(t, s.Hold(ctx, "image", base))
	}
	must(t, os.Remove(base.Path)) // as the registry's collector does
	kept := held(t, s, "image")
	if kept.Digest != base.Digest || kept.Format != base.Format || kept.Layer != "" {
		t.Errorf("held is %+v", kept)
	}
	must(t, s.Make(ctx, "a", &kept.Base, 8*mib))
	must(t, s.Unhold(ctx, "image"))
	content(t, s, "a")
	must(t, s.Hold(ctx, "again", Base{Digest: base.Digest, Format: base.Format, Path: kept.Path}))
	must(t, s.Remove(ctx, "a"))
	must(t, os.Remove(held(t, s, "again").Path))
	if h, found, err := s.Held(ctx, "again"); err != nil || !found || !h.Lost {
		t.Errorf("a file that is gone: %+v, %v, %v", h, found, err)
	}
	for range 2 {
		must(t, s.Unhold(ctx, "again"))
	}
	wantNothing(t, dir)
}

func TestLayerIsHeldUntilItIsLetGo(t *testing.T) {
	s, dir := newStore(t)
	ctx := t.Context()
	must(t, s.Make(ctx, "a", nil, 4*mib))
	poke(t, s, "a", "write -P 7 0 1M")
	must(t, s.Grow(ctx, "a", 8*mib))
	before := content(t, s, "a")
	layer, err := s.LayerOf(ctx, "a", "image-1")
	must(t, err)
	must(t, s.Hold(ctx, "one", Base{Layer: layer}))
	again, err := s.LayerOf(ctx, "a", "image-2")
	must(t, err)
	if again != layer {
		t.Errorf("a volume that was not written to is frozen once more: %s, %s", layer, again)
	}
	must(t, s.Grow(ctx, "a", 16*mib))
	grown, err := s.LayerOf(ctx, "a", "image-3")
	must(t, err)
	must(t, s.Hold(ctx, "grown", Base{Layer: grown}))
	if got := held(t, s, "grown").VirtualBytes; got != 16*mib {
		t.Errorf("a layer of a volume that grew has %d bytes", got)
	}
	poke(t, s, "a", "write -P 8 0 2M")
	must(t, s.Make(ctx, "b", &Base{Layer: held(t, s, "one").Layer}, 8*mib))
	must(t, s.Remove(ctx, "a"))
	must(t, s.Unhold(ctx, "grown"))
	must(t, s.Unhold(ctx, "one"))
	if content(t, s, "b") != before {
		t.Error("what is made from a held layer differs")
	}
	must(t, s.Remove(ctx, "b"))
	if left, _ := filepath.Glob(filepath.Join(dir, "holds", "*")); len(left) > 0 {
		t.Error(left)
	}
	wantNothing(t, dir)
}
