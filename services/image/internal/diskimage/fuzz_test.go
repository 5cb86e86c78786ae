package diskimage_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"orlop.dev/services/image/internal/diskimage"
)

// seeds are small images of each kind, made by qemu-img and packed with gzip.
func seeds(f *testing.F) [][]byte {
	paths, err := filepath.Glob("testdata/seeds/*.gz")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	var all [][]byte
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			f.Fatal(err)
		}
		unpacked, err := gzip.NewReader(file)
		if err != nil {
			f.Fatal(err)
		}
		image, err := io.ReadAll(unpacked)
		if err != nil {
			f.Fatal(err)
		}
		file.Close()
		all = append(all, image)
	}
	return all
}

// counting counts what is read, to hold the inspector to its bound.
type counting struct {
	*bytes.Reader
	bytes int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	c.bytes += int64(n)
	return n, err
}

// FuzzInspect: no image makes the inspector fail in a way of its own, read much
// more than there is, or accept a size over the limit.
func FuzzInspect(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	const limit = 1 << 40
	f.Fuzz(func(t *testing.T, image []byte) {
		r := &counting{Reader: bytes.NewReader(image)}
		info, err := diskimage.Inspect(t.Context(), r, int64(len(image)), diskimage.Limits{VirtualBytes: limit})
		if r.bytes > 8*int64(len(image))+1<<20 {
			t.Errorf("read %d bytes of %d", r.bytes, len(image))
		}
		if err == nil && (info.VirtualBytes <= 0 || info.VirtualBytes > limit) {
			t.Errorf("accepted %+v", info)
		}
		if format, screened := diskimage.Screen(image[:min(len(image), diskimage.HeadBytes)], diskimage.Limits{VirtualBytes: limit}); err == nil && screened != nil {
			t.Errorf("%s: screened off (%v) what the inspector accepts", format, screened)
		}
	})
}
