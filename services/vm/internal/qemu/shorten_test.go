package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deepFileCount is more than deepFiles.
const deepFileCount = deepFiles + 5

// command runs one of QEMU's tools.
func (m *mover) command(name string, arguments ...string) {
	m.t.Helper()
	if said, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %v: %s: %v", name, arguments, said, err)
	}
}

// newDeep is a machine with a second disk of many files, and a flat copy of it.
func newDeep(t *testing.T) (m *mover, flat string) {
	m = newMover(t)
	dir := t.TempDir()
	below, old := filepath.Join(dir, "0.qcow2"), time.Now().Add(-time.Hour)
	m.command("qemu-img", "create", "-q", "-f", "qcow2", below, "64M")
	m.command("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", below)
	for i := 1; i < deepFileCount; i++ {
		path := filepath.Join(dir, fmt.Sprintf("%d.qcow2", i))
		m.command("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", path)
		m.command("qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P %d %dM 2M", i, 2*i), path)
		if err := os.Chtimes(below, old, old); err != nil {
			t.Fatal(err)
		}
		below = path
	}
	flat = filepath.Join(dir, "flat.raw")
	m.command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", below, flat)
	disk := Disk{ID: "deep", Path: below, Format: FormatQCOW2, Medium: MediumDisk}
	if err := m.Plug(t.Context(), crashID, disk); err != nil {
		t.Fatal(err)
	}
	return m, flat
}

func (m *mover) depth(path string) int {
	m.t.Helper()
	layers, err := Layers(path, FormatQCOW2, m.options.DiskRoots)
	if err != nil {
		m.t.Fatal(err)
	}
	return len(layers)
}

func (m *mover) deep() string {
	m.t.Helper()
	p, err := m.Find(m.t.Context(), crashID)
	if err != nil {
		m.t.Fatal(err)
	}
	files, err := p.Files(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return files["deep"]
}

// shortens repeats what is due until the disk has few files, and none is open that
// it does not stand on.
func (m *mover) shortens(path string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patient)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	p, err := m.Find(ctx, crashID)
	if err != nil {
		m.t.Fatal(err)
	}
	for {
		if err := m.Shorten(ctx, crashID); err != nil {
			m.t.Fatal(err)
		}
		nodes, err := p.nodes(ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		open := 0
		for _, name := range nodes {
			if ofDisk(Disk{ID: "deep"}, name) {
				open++
			}
		}
		if m.depth(path) == 2 && open == 4 {
			return
		}
		select {
		case <-ctx.Done():
			m.t.Fatalf("it has %d files, %d nodes", m.depth(path), open)
		case <-tick.C:
		}
	}
}

func TestADiskOfManyFilesIsShortenedUnderItsGuest(t *testing.T) {
	m, flat := newDeep(t)
	path := m.deep()
	m.shortens(path)
	m.works()
	m.moves(1)
	if err := m.Kill(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	m.command("qemu-img", "compare", "-F", "raw", "-f", "qcow2", path, flat)
}

// Whatever else is done with the machine comes first, and the copying begins
// again.
func TestCopyingGivesWay(t *testing.T) {
	m, flat := newDeep(t)
	path := m.deep()
	for _, do := range []func() error{
		func() error { m.moves(1); return nil },
		func() error { return m.Save(t.Context(), crashID, t.TempDir(), nil) },
		func() error {
			p, err := m.Find(t.Context(), crashID)
			if err != nil {
				return err
			}
			return p.Grow(t.Context(), "deep", 64<<20)
		},
		func() error { return m.Unplug(t.Context(), crashID, "deep") },
	} {
		if err := m.Shorten(t.Context(), crashID); err != nil {
			t.Fatal(err)
		}
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	m.command("qemu-img", "compare", "-F", "raw", "-f", "qcow2", path, flat)
}

// QEMU is killed at any moment of the copying: the disk is whole.
func TestADiskThatIsShortenedIsWholeWhateverIsKilled(t *testing.T) {
	for round := range 5 {
		m, flat := newDeep(t)
		path := m.deep()
		deadline := time.Now().Add(rand.N(400 * time.Millisecond))
		for time.Now().Before(deadline) {
			if err := m.Shorten(t.Context(), crashID); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(m.pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p, err := m.Find(t.Context(), crashID)
		if err != nil {
			t.Fatal(err)
		}
		<-p.Gone()
		t.Logf("round %d: killed with %d files", round, m.depth(path))
		m.command("qemu-img", "compare", "-F", "raw", "-f", "qcow2", path, flat)
	}
}

func TestRightAfterASnapshotOnlyWhatIsSmallBecomesOneFile(t *testing.T) {
	now := time.Now()
	// files makes a chain of files, of which some are large.
	files := func(count int, below time.Time, large ...int) []Layer {
		var layers []Layer
		dir := t.TempDir()
		for i := range count {
			path := filepath.Join(dir, fmt.Sprint(i))
			size := int64(1 << 20)
			if slices.Contains(large, i) {
				size = quickBytes + 1
			}
			file, err := os.Create(path)
			if err == nil {
				err = errors.Join(unix.Fallocate(int(file.Fd()), 0, 0, size), file.Close(), os.Chtimes(path, below, below))
			}
			if err != nil {
				t.Fatal(err)
			}
			layers = append(layers, Layer{Path: path})
		}
		return layers
	}
	for name, test := range map[string]struct {
		layers []Layer
		want   int
	}{
		"all are small":          {files(20, now), 19},
		"the lowest are large":   {files(20, now, 17, 18), 17},
		"one near the top is":    {files(20, now, 5), 0},
		"some time after":        {files(20, now.Add(-time.Hour), 5, 17), 19},
		"the lowest is the base": {files(9, now, 8), 8},
	} {
		if got := lowerEnd(test.layers); got != test.want {
			t.Errorf("%s: file %d, want %d", name, got, test.want)
		}
	}
}
