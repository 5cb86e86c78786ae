package image

import (
	"os"
	"path/filepath"
	"regexp"
)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// BlobsIn finds blobs in the storage directory of the CNCF registry's filesystem
// driver, for Options.BlobPath. Whoever needs a file for long makes a hard link:
// the registry may remove its own.
func BlobsIn(dir string) func(digest string) (path string, ok bool) {
	return func(digest string) (string, bool) {
		if !digestForm.MatchString(digest) {
			return "", false
		}
		hex := digest[len("sha256:"):]
		path := filepath.Join(dir, "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data")
		info, err := os.Stat(path)
		return path, err == nil && info.Mode().IsRegular()
	}
}

// UploadsIn finds uploads in such a directory, for Options.UploadDir, where it is
// this process's to write.
func UploadsIn(dir string) func(repository, id string) (path string) {
	return func(repository, id string) string {
		return filepath.Join(dir, "docker", "registry", "v2", "repositories", filepath.FromSlash(repository), "_uploads", id)
	}
}
