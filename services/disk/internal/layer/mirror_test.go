package layer

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// mirrored is a volume with some content below it that is copied to node-2.
func mirrored(t *testing.T) (store *Store, dir string, volume Volume) {
	t.Helper()
	store, dir = newStore(t)
	base := newBase(t, "8M")
	if err := store.Make(t.Context(), "a", &base, 16<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := store.BeginMirror(t.Context(), "a", "node-2"); err != nil {
			t.Fatal(err)
		}
	}
	return store, dir, lookup(t, store)
}

func lookup(t *testing.T, store *Store) Volume {
	t.Helper()
	volume, found, err := store.Lookup(t.Context(), "a")
	if err != nil || !found || volume.Lost {
		t.Fatalf("%+v, %t, %v", volume, found, err)
	}
	return volume
}

func TestACopyThatAGuestWritesToIsTheVolume(t *testing.T) {
	store, dir, before := mirrored(t)
	run(t, "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "qcow2", before.Path, before.Mirror.Path)
	run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", before.Path, before.Mirror.Path)
	if err := os.WriteFile(before.Mirror.Mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := store.EndMirror(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	after := lookup(t, store)
	if after.Path != before.Mirror.Path || after.Place != "node-2" || after.Mirror != (Mirror{}) || after.VirtualBytes != 16<<20 {
		t.Errorf("the volume is %+v", after)
	}
	run(t, "qemu-img", "check", "-f", "qcow2", after.Path) // which needs no file below it
	for _, path := range []string{before.Path, before.Mirror.Mark} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
	if bases, _ := filepath.Glob(filepath.Join(dir, "bases", "*")); len(bases) > 0 {
		t.Errorf("what it stood on is there: %v", bases)
	}
}

func TestACopyThatNobodyWroteToGoes(t *testing.T) {
	store, _, before := mirrored(t)
	if err := store.EndMirror(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if after := lookup(t, store); after.Path != before.Path || after.Place != "" || after.Mirror != (Mirror{}) {
		t.Errorf("the volume is %+v", after)
	}
	if _, err := os.Stat(before.Mirror.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy is there: %v", err)
	}
}

// A host that went down with a guest that had just moved.
func TestOpenGoesOnWithTheFileThatWasWrittenLast(t *testing.T) {
	for name, live := range map[string]bool{"moved": true, "on its way": false} {
		_, dir, before := mirrored(t)
		if live {
			if err := os.WriteFile(before.Mirror.Mark, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		after := lookup(t, again)
		if live && after.Path != before.Mirror.Path || !live && after != before {
			t.Errorf("%s: the volume is %+v, was %+v", name, after, before)
		}
	}
}

func TestNothingStandsOnAVolumeThatIsCopied(t *testing.T) {
	store, dir, before := mirrored(t)
	ctx := t.Context()
	for name, do := range map[string]func(context.Context) error{
		"freeze": func(ctx context.Context) error { return store.Freeze(ctx, Freezing{Volume: "a", Layer: "l"}) },
		"open freeze": func(ctx context.Context) error {
			_, err := store.BeginFreeze(ctx, Freezing{Volume: "a", Layer: "l"})
			return err
		},
		"another place": func(ctx context.Context) error { return store.BeginMirror(ctx, "a", "node-3") },
	} {
		if err := do(ctx); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := lookup(t, store); after != before {
		t.Errorf("the volume is %+v", after)
	}
	if err := store.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "volumes", "*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestAVolumeThatIsBeingFrozenIsNotCopied(t *testing.T) {
	store, _ := newStore(t)
	if err := store.Make(t.Context(), "a", nil, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := store.BeginFreeze(t.Context(), Freezing{Volume: "a", Layer: "l", Keep: true}); err != nil {
		t.Fatal(err)
	}
	if err := store.BeginMirror(t.Context(), "a", "node-2"); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
}
