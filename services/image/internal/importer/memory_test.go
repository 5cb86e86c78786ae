package importer_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"orlop.dev/services/image/internal/dvcr/dvcrtest"
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
	for _, test := range []struct {
		name  string
		local bool
		from  generated
	}{
		{"streamed by requests", false, generated{iso, random, 256 << 20}},
		{"streamed by files", true, generated{iso, random, 256 << 20}},
		{"staged", true, generated{[]byte("raw"), io.MultiReader(io.LimitReader(random, 64<<20), zeros{}), 1 << 30}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixtureAt(t, nil, dvcrtest.Options{Local: test.local})
			debug.FreeOSMemory()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			before := now.Sys - now.HeapReleased
			peak := before
			f.request.Source = test.from
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
