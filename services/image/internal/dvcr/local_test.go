package dvcr_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
)

func staged(t *testing.T, dir string, data []byte) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "staged"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.Write(data); err != nil {
		t.Fatal(err)
	}
	return file
}

func checkpoint(t *testing.T, u *dvcr.Upload) dvcr.Checkpoint {
	t.Helper()
	c, err := u.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTakenFileIsTheBlob(t *testing.T) {
	registry := dvcrtest.Start(t, dvcrtest.Options{Local: true})
	p := registry.Repository(t, "a/b")
	data := content(3*chunk + 5)
	file := staged(t, t.TempDir(), data)
	u := start(t, p)
	if taken, err := u.Take(t.Context(), file, int64(len(data))); !taken || err != nil {
		t.Fatalf("taken: %v, %v", taken, err)
	}
	u, err := p.Resume(t.Context(), checkpoint(t, u))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := u.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	holds(t, p, blob, data)
	path, ok := registry.Options.BlobPath(blob.Digest.String())
	stored, err := os.Stat(path)
	mine, _ := file.Stat()
	if !ok || err != nil || !os.SameFile(stored, mine) {
		t.Errorf("the bytes were copied: %v, %v", ok, err)
	}
}

// A process killed after Take and before it wrote that down must not cut off the
// file that it took.
func TestUploadBeginsAnewBesideTheTakenFile(t *testing.T) {
	p := dvcrtest.Start(t, dvcrtest.Options{Local: true}).Repository(t, "a/b")
	data := content(2 * chunk)
	file := staged(t, t.TempDir(), data)
	u := start(t, p)
	before := checkpoint(t, u)
	if taken, err := u.Take(t.Context(), file, int64(len(data))); !taken || err != nil {
		t.Fatalf("taken: %v, %v", taken, err)
	}
	u, err := p.Resume(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(now, data) {
		t.Fatalf("the file has %d bytes, %v", len(now), err)
	}
	blob, err := push(t.Context(), u, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	holds(t, p, blob, data)
}

func TestFileIsNotTakenWhereTheRegistryIsElsewhere(t *testing.T) {
	p := dvcrtest.Start(t, dvcrtest.Options{}).Repository(t, "a/b")
	file := staged(t, t.TempDir(), content(chunk))
	if taken, err := start(t, p).Take(t.Context(), file, chunk); taken || err != nil {
		t.Errorf("taken: %v, %v", taken, err)
	}
}

// The registry believes the hash that it is given with an upload, but not for
// another number of bytes.
func TestUploadCutOffMeanwhileIsNotCommitted(t *testing.T) {
	registry := dvcrtest.Start(t, dvcrtest.Options{Local: true})
	p := registry.Repository(t, "a/b")
	u := start(t, p)
	if err := u.Append(t.Context(), bytes.NewReader(content(chunk)), chunk); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(registry.Root, "docker", "registry", "v2", "repositories", "a", "b", "_uploads", "*", "data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("uploads: %v, %v", files, err)
	}
	if err := os.Truncate(files[0], chunk/2); err != nil {
		t.Fatal(err)
	}
	if blob, err := u.Commit(t.Context()); err == nil {
		t.Errorf("committed as %+v", blob)
	}
}

// The source is the caller's again when Append returns, also after it was
// cancelled.
func TestAppendStopsWithItsContext(t *testing.T) {
	bothWays(t, func(t *testing.T, local bool) {
		p := dvcrtest.Start(t, dvcrtest.Options{Local: local}).Repository(t, "a/b")
		u := start(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		r := &endless{after: 4 * chunk, then: cancel}
		if err := u.Append(ctx, r, 1<<40); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

type endless struct {
	after int
	then  func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.after -= len(p); e.after <= 0 {
		e.then()
	}
	return len(p), nil
}
