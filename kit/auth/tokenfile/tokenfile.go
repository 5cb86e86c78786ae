// Package tokenfile authenticates and authorizes by a file of tokens, for a
// machine without a Kubernetes API.
//
// The file has Kubernetes' form (kube-apiserver --token-auth-file): one user a
// line, "token,user,uid" and optionally a quoted list of groups. Rights hang
// on two groups: [Masters] may do everything, [Viewers] may read.
package tokenfile

import (
	"context"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
)

// Groups that carry rights.
const (
	Masters = "system:masters"
	Viewers = "view"
)

// File is a token file that has been read. It is safe for concurrent use.
type File struct {
	// Keyed by digest, so that looking a token up takes the same time whichever
	// of its characters are right.
	users map[[sha256.Size]byte]auth.User
}

// Load reads a token file, which only its owner may be able to read. A later
// change of the file needs another Load.
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &PermissionError{Path: path, Mode: info.Mode()}
	}
	parsed, err := Parse(f)
	if err != nil {
		return nil, fmt.Errorf("token file %s: %w", path, err)
	}
	return parsed, nil
}

// PermissionError says that others than the owner can read a token file.
type PermissionError struct {
	Path string
	Mode fs.FileMode
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("token file %s has mode %v: only its owner may read it (chmod 600)", e.Path, e.Mode.Perm())
}

// Errors of a file that can't be read as tokens. They never quote the file,
// whose lines are secrets.
var (
	ErrColumns   = errors.New("a line needs a token, a user name and a UID")
	ErrDuplicate = errors.New("a token occurs twice")
)

// Parse reads tokens in the form of a token file.
func Parse(r io.Reader) (*File, error) {
	file := &File{users: map[[sha256.Size]byte]auth.User{}}
	lines := reader(r)
	for {
		columns, err := lines.Read()
		switch {
		case errors.Is(err, io.EOF):
			return file, nil
		case err != nil:
			return nil, err
		}
		if err := file.add(columns); err != nil {
			line, _ := lines.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
	}
}

func reader(r io.Reader) *csv.Reader {
	lines := csv.NewReader(r)
	lines.FieldsPerRecord = -1
	lines.TrimLeadingSpace = true
	lines.Comment = '#'
	return lines
}

func (f *File) add(columns []string) error {
	if len(columns) < 3 || columns[0] == "" || columns[1] == "" {
		return ErrColumns
	}
	digest := sha256.Sum256([]byte(columns[0]))
	if _, twice := f.users[digest]; twice {
		return ErrDuplicate
	}
	u := auth.User{Name: columns[1], UID: columns[2]}
	if len(columns) > 3 {
		u.Groups = splitGroups(columns[3])
	}
	f.users[digest] = u
	return nil
}

func splitGroups(list string) []string {
	var groups []string
	for g := range strings.SplitSeq(list, ",") {
		if g = strings.TrimSpace(g); g != "" {
			groups = append(groups, g)
		}
	}
	return groups
}

// Authenticate implements [auth.Authenticator].
func (f *File) Authenticate(_ context.Context, token string) (auth.User, error) {
	u, known := f.users[sha256.Sum256([]byte(token))]
	if !known {
		return auth.User{}, fault.New(fault.Unauthenticated, "TokenUnknown", "the token is not known")
	}
	return u, nil
}
