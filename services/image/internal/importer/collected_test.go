package importer_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
)

// blobs are the files of blobs in a registry's storage.
func blobs(t *testing.T, root string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docker", "registry", "v2", "blobs", "sha256", "*", "*", "data"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestImportBeginsAnewWhenItsBlobIsCollected just before the manifest that would
// have named it.
func TestImportBeginsAnewWhenItsBlobIsCollected(t *testing.T) {
	raw := rawDisk(t)
	for name, data := range map[string][]byte{"qcow2": converted(t, raw, "-O", "qcow2"), "raw": read(t, raw)} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			var collected atomic.Bool
			f := newFixtureAt(t, data, dvcrtest.Options{Root: root, Local: true, Wrap: func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && collected.CompareAndSwap(false, true) {
						for _, blob := range blobs(t, root) {
							if err := os.RemoveAll(filepath.Dir(blob)); err != nil {
								t.Error(err)
							}
						}
					}
					h.ServeHTTP(w, r)
				})
			}})
			f.request.Checkpoints = &store{}
			got, err := f.importer.Import(t.Context(), f.request)
			if err != nil {
				t.Fatal(err)
			}
			if !collected.Load() {
				t.Error("nothing was collected")
			}
			f.holds(t, got, raw)
		})
	}
}

// TestRefusedImageIsReleased so that a collector needn't wait for its manifest.
func TestRefusedImageIsReleased(t *testing.T) {
	qcow2 := converted(t, rawDisk(t), "-O", "qcow2")
	var released atomic.Int64
	f := newFixture(t, qcow2[:len(qcow2)/2], func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/blobs/sha256:") {
				released.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	if _, err := f.importer.Import(t.Context(), f.request); failure.ReasonOf(err) != diskimage.ReasonTruncated {
		t.Fatal(err)
	}
	if released.Load() != 1 {
		t.Errorf("released %d times", released.Load())
	}
}
