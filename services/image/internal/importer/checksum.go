package importer

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"orlop.dev/services/image/internal/failure"
)

// Checksum is what the file's hashes must be, in hexadecimal; empty ones aren't
// checked.
type Checksum struct {
	MD5, SHA1, SHA256, SHA512 string
}

type check struct {
	name string
	want string
	hash hash.Hash
}

// checks are the hashes of a source as it is read.
type checks []check

func (c Checksum) checks() checks {
	var all checks
	for _, k := range []check{
		{"md5", c.MD5, md5.New()},
		{"sha1", c.SHA1, sha1.New()},
		{"sha256", c.SHA256, sha256.New()},
		{"sha512", c.SHA512, sha512.New()},
	} {
		if k.want != "" {
			all = append(all, k)
		}
	}
	return all
}

// reader hashes what is read from r.
func (c checks) reader(r io.Reader) io.Reader {
	for _, k := range c {
		r = io.TeeReader(r, k.hash)
	}
	return r
}

func (c checks) save() (map[string][]byte, error) {
	states := make(map[string][]byte, len(c))
	for _, k := range c {
		state, err := k.hash.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return nil, err
		}
		states[k.name] = state
	}
	return states, nil
}

func (c checks) restore(states map[string][]byte) error {
	for _, k := range c {
		if err := k.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(states[k.name]); err != nil {
			return fmt.Errorf("importer: state of %s: %w", k.name, err)
		}
	}
	return nil
}

func (c checks) verify() error {
	for _, k := range c {
		if got := hex.EncodeToString(k.hash.Sum(nil)); !strings.EqualFold(got, k.want) {
			return failure.Terminalf(ReasonChecksum, "the file's %s is %s, not %s", k.name, got, k.want)
		}
	}
	return nil
}
