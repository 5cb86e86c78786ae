package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/disk/internal/qcow2"
)

// numbered is a disk in which each sector says where it is.
type numbered struct{ bytes int64 }

// ReadAt implements io.ReaderAt for whole sectors.
func (n numbered) ReadAt(b []byte, offset int64) (int, error) {
	if offset+int64(len(b)) > n.bytes {
		return 0, errors.New("a read past the end")
	}
	for i := 0; i < len(b); i += 512 {
		binary.BigEndian.PutUint64(b[i:], uint64(offset)+uint64(i)+1)
	}
	return len(b), nil
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: make setup installs it", name)
	}
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
}

// write makes the file; what is zero in it takes no room.
func write(t *testing.T, plan *qcow2.Plan, disk numbered) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(plan.Bytes()); err != nil {
		t.Fatal(err)
	}
	reader, nothing := plan.Reader(disk), make([]byte, qcow2.ClusterBytes)
	for at := int64(0); at < plan.Bytes(); at += qcow2.ClusterBytes {
		b := make([]byte, qcow2.ClusterBytes)
		if _, err := reader.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(b, nothing) {
			continue
		}
		if _, err := file.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestPlannedFilesAreWhole(t *testing.T) {
	const tib = 1 << 40
	r := rand.New(rand.NewPCG(1, 2))
	for name, size := range map[string]int64{
		"one sector": 512, "no whole cluster": 3*qcow2.ClusterBytes + 1024, "some": 40 << 20, "one table": 512 << 20, "two tables": 512<<20 + 512, "large": 40 * tib,
	} {
		t.Run(name, func(t *testing.T) {
			var runs []qcow2.Run
			clusters := (size + qcow2.ClusterBytes - 1) / qcow2.ClusterBytes
			for first := int64(0); first < clusters; {
				count := min(clusters-first, 1+r.Int64N(40))
				runs = append(runs, qcow2.Run{First: first, Count: count, Zero: r.IntN(3) == 0})
				first += count + r.Int64N(1+max(clusters/20, 30))
			}
			plan, err := qcow2.New(size, runs, nil)
			if err != nil {
				t.Fatal(err)
			}
			path := write(t, plan, numbered{size})
			run(t, "qemu-img", "check", "-q", "-f", "qcow2", path)
			if size < 64<<20 {
				compare(t, path, size, runs)
			}
		})
	}
}

// TestManyClustersAreCounted has more clusters than one block of counts.
func TestManyClustersAreCounted(t *testing.T) {
	const clusters = 70_000
	plan, err := qcow2.New(clusters*qcow2.ClusterBytes, []qcow2.Run{{First: 0, Count: clusters}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tables := plan.Bytes() - clusters*qcow2.ClusterBytes
	b := make([]byte, tables)
	if _, err := plan.Reader(numbered{}).ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(plan.Bytes()); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "check", "-q", "-f", "qcow2", path)
}

func compare(t *testing.T, path string, size int64, runs []qcow2.Run) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
	got, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for _, run := range runs {
		if run.Zero {
			continue
		}
		from, to := run.First*qcow2.ClusterBytes, min(size, (run.First+run.Count)*qcow2.ClusterBytes)
		if _, err := (numbered{size}).ReadAt(want[from:to], from); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("the file shows another disk")
	}
}

func TestImpossiblePlansAreRefused(t *testing.T) {
	const size = 10 * qcow2.ClusterBytes
	for what, err := range map[string]error{
		"no disk":      planned(0, nil),
		"out of order": planned(size, nil, qcow2.Run{First: 4, Count: 1}, qcow2.Run{First: 3, Count: 1}),
		"overlapping":  planned(size, nil, qcow2.Run{First: 3, Count: 2}, qcow2.Run{First: 4, Count: 1}),
		"empty":        planned(size, nil, qcow2.Run{First: 3}),
		"past the end": planned(size, nil, qcow2.Run{First: 9, Count: 2}),
		"a long name":  planned(size, &qcow2.Backing{Name: string(make([]byte, 1024)), Format: "raw"}),
	} {
		if !errors.Is(err, qcow2.ErrPlan) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func planned(size int64, backing *qcow2.Backing, runs ...qcow2.Run) error {
	_, err := qcow2.New(size, runs, backing)
	return err
}
