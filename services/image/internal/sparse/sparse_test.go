package sparse_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/sparse"
)

const noLimit = 1 << 50

// disk is a sparse raw file with pieces of data at the given offsets.
func disk(t testing.TB, size int64, offsets ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{5}).Read(piece)
	for _, offset := range offsets {
		if _, err := f.WriteAt(piece[:min(int64(len(piece)), size-offset)], offset); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func target(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// same lets the real tool judge the image and compare it with the disk.
func same(t *testing.T, raw, image string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	for _, args := range [][]string{
		{"check", "-q", "-f", "qcow2", image},
		{"compare", "-q", "-f", "raw", "-F", "qcow2", raw, image},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Errorf("qemu-img %v: %v\n%s", args, err, out)
		}
	}
}

func TestWriterMakesTheSameDisk(t *testing.T) {
	cases := []struct {
		name    string
		size    int64
		offsets []int64
	}{
		{"one sector", 512, []int64{0}},
		{"all zero", 3 << 20, nil},
		{"partial cluster", 1<<20 + 512, []int64{0, 1 << 20}},
		{"holes", 64 << 20, []int64{0, 5<<20 + 17, 33 << 20, 64<<20 - 1000}},
		{"regions", 2<<30 + 512, []int64{100, 512<<20 - 50_000, 1600 << 20, 2 << 30}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			raw, image := disk(t, c.size, c.offsets...), target(t)
			w := sparse.NewWriter(image, noLimit)
			if err := w.Append(t.Context(), raw, noLimit); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			result, err := w.Finish()
			if err != nil {
				t.Fatal(err)
			}
			stat, err := image.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if result.VirtualBytes != c.size || result.StoredBytes != stat.Size() {
				t.Errorf("got %+v for %d bytes in a file of %d", result, c.size, stat.Size())
			}
			if most := int64(len(c.offsets))*4*65536 + 12*65536; result.StoredBytes > most {
				t.Errorf("stored %d bytes, want at most %d", result.StoredBytes, most)
			}
			same(t, raw.Name(), image.Name())
		})
	}
}

func TestWriterRoundsUpToSector(t *testing.T) {
	w := sparse.NewWriter(target(t), noLimit)
	if err := w.Append(t.Context(), bytes.NewReader([]byte("abc")), noLimit); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if result, err := w.Finish(); err != nil || result.VirtualBytes != 512 {
		t.Errorf("got %+v, %v", result, err)
	}
}

// TestResumeContinuesFromAnySave breaks the writer off at each step, lets it
// write on without saving, and continues from the save.
func TestResumeContinuesFromAnySave(t *testing.T) {
	const size = 1<<30 + 512
	raw := disk(t, size, 0, 200<<20, 512<<20-50_000, 700<<20, 1<<30-30_000)
	image := target(t)
	var saved []byte
	for step := int64(100 << 20); ; {
		w := sparse.NewWriter(image, noLimit)
		if saved != nil {
			var s sparse.State
			if err := json.Unmarshal(saved, &s); err != nil {
				t.Fatal(err)
			}
			var err error
			if w, err = sparse.Resume(image, noLimit, s); err != nil {
				t.Fatal(err)
			}
		}
		rest := io.NewSectionReader(raw, w.Offset(), size)
		err := w.Append(t.Context(), rest, step)
		if errors.Is(err, io.EOF) {
			if _, err := w.Finish(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.Save()
		if err != nil {
			t.Fatal(err)
		}
		if saved, err = json.Marshal(s); err != nil {
			t.Fatal(err)
		}
		if err := w.Append(t.Context(), rest, step/2/65536*65536); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	same(t, raw.Name(), image.Name())
}

func TestResumeRefusesForeignState(t *testing.T) {
	for _, s := range []sparse.State{{Offset: 1, Used: 1, L1: []int64{0}}, {Offset: 65536, Used: 1}, {Offset: -65536, Used: 1}, {}} {
		if _, err := sparse.Resume(target(t), noLimit, s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
}

func TestWriterHoldsItsLimit(t *testing.T) {
	w := sparse.NewWriter(target(t), 1<<20)
	err := w.Append(t.Context(), bytes.NewReader(make([]byte, 1<<20+1)), noLimit)
	if failure.ReasonOf(err) != sparse.ReasonTooLarge {
		t.Errorf("got %v, want %s", err, sparse.ReasonTooLarge)
	}
}

func BenchmarkWriter(b *testing.B) {
	raw := disk(b, 256<<20, 0, 100<<20, 200<<20)
	b.SetBytes(256 << 20)
	for b.Loop() {
		w := sparse.NewWriter(target(b), noLimit)
		if err := w.Append(b.Context(), io.NewSectionReader(raw, 0, 256<<20), noLimit); !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		if _, err := w.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}
