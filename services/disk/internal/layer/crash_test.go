package layer

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Of the process that is killed: what it does, and where.
const (
	crashStep = "ORLOP_LAYER_CRASH_STEP"
	crashDir  = "ORLOP_LAYER_CRASH_DIR"
)

// crashSteps are done by a process that is killed in the middle, and once more
// by one that is not.
func crashSteps(base Base) map[string]func(context.Context, *Store) error {
	return map[string]func(context.Context, *Store) error{
		"make":  func(ctx context.Context, s *Store) error { return s.Make(ctx, "new", &base, 16*mib) },
		"clone": func(ctx context.Context, s *Store) error { return s.Clone(ctx, "new", "kept", 16*mib) },
		"copy":  func(ctx context.Context, s *Store) error { return s.Copy(ctx, "new", "a", 16*mib) },
		"freeze": func(ctx context.Context, s *Store) error {
			return s.Freeze(ctx, Freezing{Volume: "a", Layer: "new", Keep: true})
		},
		"flatten": func(ctx context.Context, s *Store) error {
			_, err := s.Flatten(ctx, "a", 2, always)
			return err
		},
		"revert": func(ctx context.Context, s *Store) error { return s.Revert(ctx, "a", "kept") },
		"grow":   func(ctx context.Context, s *Store) error { return s.Grow(ctx, "a", 32*mib) },
		"hold":   func(ctx context.Context, s *Store) error { return s.Hold(ctx, "held", base) },
		"unhold": func(ctx context.Context, s *Store) error { return s.Unhold(ctx, "image") },
		"remove": func(ctx context.Context, s *Store) error { return s.Remove(ctx, "a") },
		"drop":   func(ctx context.Context, s *Store) error { return s.Drop(ctx, "kept") },
	}
}

// TestCrashChild is the process that is killed.
func TestCrashChild(t *testing.T) {
	step, dir := os.Getenv(crashStep), os.Getenv(crashDir)
	if step == "" {
		t.Skip("it is run by TestKilledStepIsWholeAfterwards")
	}
	s, err := Open(filepath.Join(dir, "store"), slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, crashSteps(baseIn(dir))[step](t.Context(), s))
}

func baseIn(dir string) Base {
	return Base{Digest: "sha256:0123", Path: filepath.Join(dir, "blob"), Format: "qcow2"}
}

func TestKilledStepIsWholeAfterwards(t *testing.T) {
	template := crashTemplate(t)
	before := content(t, openIn(t, template), "a")
	after := map[string]string{}
	for step, change := range map[string]func(*Store) error{
		"grow":   func(s *Store) error { return s.Grow(t.Context(), "a", 32*mib) },
		"revert": func(s *Store) error { return s.Revert(t.Context(), "a", "kept") },
	} {
		s := openIn(t, copyTree(t, template))
		must(t, change(s))
		after[step] = content(t, s, "a")
	}
	for step := range crashSteps(Base{}) {
		t.Run(step, func(t *testing.T) {
			kills, stride := 0, 1
			if testing.Short() {
				stride = 5
			}
			for event := 1; ; event += stride {
				dir := copyTree(t, template)
				if !killAt(t, dir, step, event) {
					break
				}
				kills++
				crashed{t: t, dir: dir, step: step, before: before, after: after[step]}.check()
				must(t, os.RemoveAll(dir))
			}
			if kills == 0 {
				t.Error("the process was never killed")
			}
			t.Logf("killed at %d moments", kills)
		})
	}
}

// crashTemplate is a volume of four files, one of them a layer that is kept and
// that a second volume shares.
func crashTemplate(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Rename(newBase(t, "8M").Path, filepath.Join(dir, "blob")))
	s := openIn(t, dir)
	base := baseIn(dir)
	must(t, s.Make(t.Context(), "a", &base, 16*mib))
	poke(t, s, "a", "write -P 1 0 1M")
	must(t, s.Freeze(t.Context(), Freezing{Volume: "a", Layer: "kept", Keep: true}))
	poke(t, s, "a", "write -P 2 512K 1M")
	must(t, s.Copy(t.Context(), "b", "a", 16*mib))
	poke(t, s, "a", "write -P 3 9M 1M")
	must(t, s.Hold(t.Context(), "image", Base{Layer: "kept"}))
	return dir
}

func openIn(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "store"), slog.New(slog.DiscardHandler))
	must(t, err)
	return s
}

func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	run(t, "cp", "-a", "--sparse=always", from, to)
	return to
}

// killAt runs a step in a process of its own and kills it when that many things
// happened to the store's files; false if it ended before.
func killAt(t *testing.T, dir, step string, event int) bool {
	t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	events := os.NewFile(uintptr(watch), "inotify")
	defer events.Close()
	for _, folder := range []string{"volumes", "layers", "holds", "bases"} {
		must(t, os.MkdirAll(filepath.Join(dir, "store", folder), 0o700))
		_, err := unix.InotifyAddWatch(watch, filepath.Join(dir, "store", folder),
			unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_MODIFY)
		must(t, err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashStep+"="+step, crashDir+"="+dir)
	output := new(strings.Builder)
	child.Stdout, child.Stderr = output, output
	must(t, child.Start())
	reached := make(chan bool, 1)
	go func() { reached <- countTo(events, event, child.Process) }()
	err = child.Wait()
	_ = events.Close()
	if <-reached {
		return true
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", step, err, output)
	}
	return false
}

// countTo kills the process at an event; false if the events end before.
func countTo(events *os.File, wanted int, victim *os.Process) bool {
	buffer := make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1)
	for seen := 0; ; {
		n, err := events.Read(buffer)
		if err != nil {
			return false
		}
		for at := 0; at < n; {
			// The length of the name is the event's last number.
			name := int(buffer[at+12]) | int(buffer[at+13])<<8
			at += unix.SizeofInotifyEvent + name
			if seen++; seen == wanted {
				return victim.Kill() == nil
			}
		}
	}
}

// crashed is a store whose process was killed.
type crashed struct {
	t         *testing.T
	dir, step string
	// before is what the volume had, after what the step gives it, if anything.
	before, after string
}

func (c crashed) check() {
	c.t.Helper()
	s, ctx := openIn(c.t, c.dir), c.t.Context()
	c.whole(s)
	if _, found, err := s.Lookup(ctx, "a"); err != nil || !found && c.step != "remove" {
		c.t.Fatalf("the volume is gone: %v", err)
	} else if found {
		if got := content(c.t, s, "a"); got != c.before && got != c.after {
			c.t.Error("the volume has another content")
		}
	}
	poke(c.t, s, "b", "read -P 2 512K 1M", "read -P 1 0 512K")
	must(c.t, crashSteps(baseIn(c.dir))[c.step](ctx, s))
	c.whole(s)
	if c.step == "clone" {
		poke(c.t, s, "new", "read -P 1 0 1M")
	}
	for _, id := range []string{"new", "a", "b"} {
		must(c.t, s.Remove(ctx, id))
	}
	for _, id := range []string{"new", "kept"} {
		must(c.t, s.Drop(ctx, id))
	}
	for _, name := range []string{"held", "image"} {
		must(c.t, s.Unhold(ctx, name))
	}
	wantNothing(c.t, filepath.Join(c.dir, "store"))
}

// whole fails if a file is half-made or belongs to nothing.
func (c crashed) whole(s *Store) {
	c.t.Helper()
	g, err := s.load()
	must(c.t, err)
	files := g.files()
	found, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	must(c.t, err)
	for _, path := range found {
		name := filepath.Base(path)
		belongs := strings.HasSuffix(name, recordSuffix) || files[name] || g.needs(record{Base: name})
		if !belongs || isPartial(name) {
			c.t.Errorf("%s is left behind", path)
		}
	}
	for id, r := range g.volumes {
		if there, err := exists(s.filePath(r)); err != nil || !there && (r.Made || id != "new") {
			c.t.Errorf("volume %s has no file, %v", id, err)
		} else if !there {
			delete(files, r.File) // it was only wanted so far
		}
	}
	for name := range files {
		run(c.t, "qemu-img", "check", "-q", "-f", "qcow2", filepath.Join(s.volumes(), name))
	}
}
