package tokenfile

import (
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"orlop.dev/kit/auth"
)

// ErrNoUser says that a token file has no token of the user.
var ErrNoUser = errors.New("the token file has no such user")

// Ensure returns the first token of the user in a token file. Where there is
// no file it writes one first, with a random token, readable by its owner
// only. A process that dies in it leaves no file or the whole of it.
func Ensure(path string, u auth.User) (token string, err error) {
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(path, u)
	}
	if err != nil {
		return "", err
	}
	return find(path, u.Name)
}

func create(path string, u auth.User) error {
	// CreateTemp makes files of mode 0600.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	w := csv.NewWriter(tmp)
	writeErr := w.Write([]string{rand.Text(), u.Name, u.UID, strings.Join(u.Groups, ",")})
	w.Flush()
	if err := errors.Join(writeErr, w.Error(), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// Link, unlike Rename, leaves the file of somebody who was faster.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func find(path, name string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := reader(f)
	for {
		columns, err := lines.Read()
		switch {
		case errors.Is(err, io.EOF):
			return "", fmt.Errorf("%s in %s: %w", name, path, ErrNoUser)
		case err != nil:
			return "", err
		case len(columns) > 1 && columns[1] == name:
			return columns[0], nil
		}
	}
}
