package tokenfile

import (
	"crypto/rand"
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"orlop.dev/kit/auth"
)

// Ensure writes a token file with one user and a random token, readable by
// its owner only, unless the file is there already. A process that dies in it
// leaves the old state or the new one.
func Ensure(path string, u auth.User) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// CreateTemp makes files of mode 0600.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	w := csv.NewWriter(tmp)
	w.Write([]string{rand.Text(), u.Name, u.UID, strings.Join(u.Groups, ",")})
	w.Flush()
	if err := errors.Join(w.Error(), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// Link, unlike Rename, leaves the file of somebody who was faster.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
