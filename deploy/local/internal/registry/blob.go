package registry

import (
	"os"
	"path/filepath"
	"regexp"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// BlobPath returns the file that has a blob's bytes, and whether there is one.
// Whoever needs it for long makes a hard link: the registry may remove its own.
func (r *Registry) BlobPath(digest string) (string, bool) {
	if !digestForm.MatchString(digest) {
		return "", false
	}
	hex := digest[len("sha256:"):]
	path := filepath.Join(r.Dir(), "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data")
	info, err := os.Stat(path)
	return path, err == nil && info.Mode().IsRegular()
}
