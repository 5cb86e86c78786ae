package account

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sudoersFile is where cloud images keep the rules of their seed.
const sudoersFile = "etc/sudoers.d/90-cloud-init-users"

// SetPassword stores a crypt(5) hash. Locked keeps the hash, and lets no
// password through.
func (s Store) SetPassword(name, hash string, locked bool) error {
	if _, err := s.Lookup(name); err != nil {
		return err
	}
	if strings.ContainsAny(hash, ":\n") {
		return fmt.Errorf("password of %s: not a crypt(5) hash", name)
	}
	if locked {
		hash = "!" + hash
	}
	return s.setShadow(name, hash)
}

// Unlock lets the password that an account has be used again.
func (s Store) Unlock(name string) error {
	rows, err := s.table("shadow")
	if err != nil {
		return err
	}
	row := rows.find(name)
	if row == nil {
		return fmt.Errorf("%s: %w", name, ErrNoUser)
	}
	hash := strings.TrimLeft(row[1], "!")
	if hash == "" || hash == "*" {
		// Nothing was set: an empty field would let anybody in.
		return nil
	}
	return s.setShadow(name, hash)
}

// setShadow leaves the ageing fields empty: passwords of a seed don't expire.
func (s Store) setShadow(name, hash string) error {
	rows, err := s.table("shadow")
	if err != nil {
		return err
	}
	rows.put([]string{name, hash, "", "0", "99999", "7", "", "", ""})
	return s.write("shadow", rows)
}

// Authorize adds ssh keys to the user's own; what is there stays.
func (s Store) Authorize(name string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	user, err := s.Lookup(name)
	if err != nil {
		return err
	}
	folder := filepath.Join(s.Root, user.Home, ".ssh")
	if err := s.ownDir(folder, 0o700, user); err != nil {
		return err
	}
	path := filepath.Join(folder, "authorized_keys")
	lines, err := readLines(path)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if key = strings.TrimSpace(key); key != "" && !slices.Contains(lines, key) {
			lines = append(lines, key)
		}
	}
	return replace(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600, user)
}

// AllowSudo adds rules for a user, such as "ALL=(ALL) NOPASSWD:ALL".
func (s Store) AllowSudo(name string, rules []string) error {
	if len(rules) == 0 {
		return nil
	}
	path := filepath.Join(s.Root, sudoersFile)
	lines, err := readLines(path)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if strings.Contains(rule, "\n") {
			return fmt.Errorf("sudo rule of %s: more than one line", name)
		}
		if line := name + " " + rule; !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return replace(path, []byte(strings.Join(lines, "\n")+"\n"), 0o440, User{})
}

func readLines(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' }), nil
}
