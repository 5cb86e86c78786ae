package image

import (
	"os"
	"path/filepath"

	"orlop.dev/kit/durable"
)

// writeAuthority puts certificates into a folder of their own, replacing what an
// earlier process was told to trust.
func writeAuthority(dir string, pem []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, "ca.crt"), pem, 0o600)
}
