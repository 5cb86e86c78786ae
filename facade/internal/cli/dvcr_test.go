package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLookAtDVCR(t *testing.T) {
	dir := t.TempDir()
	none, err := lookAtDVCR(filepath.Join(dir, "missing", "dvcr"))
	if err != nil || none.Images != 0 || none.UsedBytes != 0 || none.FreeBytes <= 0 {
		t.Errorf("of no registry: %+v, %v", none, err)
	}
	root := filepath.Join(dir, "registry", "docker", "registry", "v2")
	for name, size := range map[string]int{
		"repositories/vi/default/a/_manifests/tags/uid/current/link":            71,
		"repositories/vi/default/a/_manifests/tags/uid/index/sha256/00/link":    71,
		"repositories/vi/default/a/_manifests/revisions/sha256/00/link":         71,
		"repositories/vi/default/a/_layers/sha256/11/link":                      71,
		"repositories/cvi/b/_manifests/tags/uid/current/link":                   71,
		"repositories/vi/default/a/_uploads/upload-of-a-tag-named/current/link": 71,
		"blobs/sha256/11/1111/data":                                             1 << 20,
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := lookAtDVCR(dir)
	if err != nil || got.Images != 2 || got.UsedBytes < 1<<20 || got.FreeBytes <= 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}
