package image

import (
	"os"
	"path/filepath"
)

// writeAuthority puts certificates into a folder of their own, replacing what an
// earlier process was told to trust.
func writeAuthority(dir string, pem []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, "ca-*.new")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone already where all went well
	_, err = file.Write(pem)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(dir, "ca.crt"))
}
