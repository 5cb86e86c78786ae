package importer_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// generated is a file of any size that nobody stores: a head, then random or
// zero bytes.
type generated struct {
	head []byte
	body io.Reader
	size int64
}

type generatedStream struct {
	io.Reader
	size int64
}

func (generatedStream) Close() error                { return nil }
func (s generatedStream) Size() int64               { return s.size }
func (generatedStream) Validator() source.Validator { return source.Validator{ETag: `"v1"`} }

func (g generated) Open(context.Context, int64, source.Validator) (importer.Stream, error) {
	all := io.MultiReader(bytes.NewReader(g.head), g.body)
	return generatedStream{io.LimitReader(all, g.size), g.size}, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestImportStaysSmall holds the growth of the process, the registry included,
// to 64 MiB while several times that passes through.
func TestImportStaysSmall(t *testing.T) {
	iso := make([]byte, 18*2048)
	copy(iso[16*2048:], "\x01CD001\x01")
	copy(iso[17*2048:], "\xffCD001\x01")
	random := rand.NewChaCha8([32]byte{1})
	for name, from := range map[string]generated{
		"streamed": {iso, random, 256 << 20},
		"staged":   {[]byte("raw"), io.MultiReader(io.LimitReader(random, 64<<20), zeros{}), 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil, nil)
			debug.FreeOSMemory()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			before := now.Sys - now.HeapReleased
			peak := before
			f.request.Source = from
			f.request.Progress = func(importer.Progress) {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.Sys-now.HeapReleased)
			}
			big := importer.New(importer.Options{StagingDir: f.staging, ProgressEvery: 20 * time.Millisecond})
			if _, err := big.Import(t.Context(), f.request); err != nil {
				t.Fatal(err)
			}
			if grown := int64(peak) - int64(before); grown > 64<<20 {
				t.Errorf("the process grew by %d MiB", grown>>20)
			}
		})
	}
}

// benchFile is a qcow2 of a quarter GiB behind an HTTP server.
func benchFile(b *testing.B) (url string, size int64) {
	b.Helper()
	raw := filepath.Join(b.TempDir(), "raw")
	f, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), 256<<20); err != nil {
		b.Fatal(err)
	}
	f.Close()
	image := filepath.Join(b.TempDir(), "image")
	run(b, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
	stat, err := os.Stat(image)
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeFile(w, r, image)
	}))
	b.Cleanup(server.Close)
	return strings.TrimSuffix(server.URL, "/") + "/image", stat.Size()
}

// BenchmarkCopy is the yardstick: the same file downloaded and synced.
func BenchmarkCopy(b *testing.B) {
	url, size := benchFile(b)
	b.SetBytes(size)
	for b.Loop() {
		response, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		out, err := os.Create(filepath.Join(b.TempDir(), "copy"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(out, response.Body); err != nil {
			b.Fatal(err)
		}
		if err := out.Sync(); err != nil {
			b.Fatal(err)
		}
		out.Close()
		response.Body.Close()
		os.Remove(out.Name())
	}
}

func BenchmarkImport(b *testing.B) {
	url, size := benchFile(b)
	b.SetBytes(size)
	for b.Loop() {
		f := newFixture(b, nil, nil)
		f.request.Source = importer.HTTP(source.Options{URL: url, AllowPrivate: loopback})
		if _, err := importer.New(importer.Options{StagingDir: f.staging}).Import(b.Context(), f.request); err != nil {
			b.Fatal(err)
		}
	}
}
