package registry

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"

	"orlop.dev/facade/home"
)

const user = "orlop"

// Credential is a user name and a password for basic authentication.
type Credential struct {
	Username, Password string
	// secret signs the state of uploads that the registry hands to clients.
	secret string
}

// String keeps the password out of logs.
func (c Credential) String() string { return c.Username + ":***" }

// GoString keeps the password out of logs.
func (c Credential) GoString() string { return c.String() }

// stored is the credential's form in its file.
type stored struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Secret   string `json:"secret"`
}

// ensureCredential returns the directory's credential, and makes one where there
// is none. The form that the registry reads is derived from it each time.
func ensureCredential(dir string) (Credential, error) {
	s, err := readCredential(dir)
	if errors.Is(err, fs.ErrNotExist) {
		s = stored{Username: user, Password: rand.Text(), Secret: rand.Text()}
		err = s.write(dir)
	}
	if err != nil {
		return Credential{}, err
	}
	// The password is random: a costly hash would only slow each request down.
	hash, err := bcrypt.GenerateFromPassword([]byte(s.Password), bcrypt.MinCost)
	if err != nil {
		return Credential{}, err
	}
	if err := home.WriteFile(passwordFile(dir), fmt.Appendf(nil, "%s:%s\n", s.Username, hash)); err != nil {
		return Credential{}, err
	}
	return Credential{Username: s.Username, Password: s.Password, secret: s.Secret}, nil
}

func readCredential(dir string) (stored, error) {
	var s stored
	content, err := os.ReadFile(credentialFile(dir))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(content, &s); err != nil {
		return s, fmt.Errorf("%s is no credential", credentialFile(dir)) // the cause might quote it
	}
	return s, nil
}

func (s stored) write(dir string) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return home.WriteFile(credentialFile(dir), content)
}

func credentialFile(dir string) string { return filepath.Join(dir, "credential.json") }
func passwordFile(dir string) string   { return filepath.Join(dir, "htpasswd") }
