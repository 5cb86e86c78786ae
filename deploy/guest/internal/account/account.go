// Package account keeps a guest's users, groups, passwords, ssh keys and sudo
// rules in their files under /etc. It owns the formats of passwd(5), shadow(5),
// group(5) and the rules of crash-safe replacement; it must not know where a
// wish for a user came from.
package account

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrNoUser says that an account was named that does not exist.
var ErrNoUser = errors.New("no such user")

// Accounts of people start here, as on Debian (UID_MIN of login.defs).
const firstID, lastID = 1000, 59999

// Store is the set of accounts below one root folder.
type Store struct {
	// Root is "/" but for tests.
	Root string
}

// Wish describes an account to be made.
type Wish struct {
	Name, Gecos, Home, Shell string
	// ID is the user id; 0 means the next free one.
	ID int
	// PrimaryGroup is made when it does not exist; empty means a group of the
	// user's own name.
	PrimaryGroup string
	// Groups are joined, and made when they do not exist.
	Groups []string
}

// User is an account that exists.
type User struct {
	Name     string
	ID, GID  int
	Home     string
	inserted bool
}

// Created says whether Ensure made the account, or found it.
func (u User) Created() bool { return u.inserted }

// Ensure makes the account if there is none, with a locked password, and joins
// its groups either way. It is idempotent.
func (s Store) Ensure(wish Wish) (User, error) {
	user, err := s.Lookup(wish.Name)
	if errors.Is(err, ErrNoUser) {
		user, err = s.create(wish)
	}
	if err != nil {
		return User{}, err
	}
	for _, group := range wish.Groups {
		if err := s.join(group, wish.Name); err != nil {
			return User{}, err
		}
	}
	return user, s.makeHome(user)
}

// Lookup finds an account; ErrNoUser if there is none.
func (s Store) Lookup(name string) (User, error) {
	lines, err := s.table("passwd")
	if err != nil {
		return User{}, err
	}
	row := lines.find(name)
	if len(row) < 7 {
		return User{}, fmt.Errorf("%s: %w", name, ErrNoUser)
	}
	id, errID := strconv.Atoi(row[2])
	gid, errGID := strconv.Atoi(row[3])
	if err := errors.Join(errID, errGID); err != nil {
		return User{}, fmt.Errorf("passwd: %s: %w", name, err)
	}
	return User{Name: name, ID: id, GID: gid, Home: row[5]}, nil
}

// create writes passwd last: until its line is there the account does not
// exist, and a run cut short before it is simply repeated.
func (s Store) create(wish Wish) (User, error) {
	users, err := s.table("passwd")
	if err != nil {
		return User{}, err
	}
	user := User{Name: wish.Name, ID: wish.ID, Home: wish.Home, inserted: true}
	if user.ID == 0 {
		user.ID = users.freeID(2)
	}
	if user.Home == "" {
		user.Home = "/home/" + wish.Name
	}
	group := wish.PrimaryGroup
	if group == "" {
		group = wish.Name
	}
	if user.GID, err = s.ensureGroup(group, user.ID); err != nil {
		return User{}, err
	}
	if err := s.setShadow(wish.Name, "!"); err != nil {
		return User{}, err
	}
	shell := wish.Shell
	if shell == "" {
		shell = "/bin/bash"
	}
	users.put([]string{wish.Name, "x", strconv.Itoa(user.ID), strconv.Itoa(user.GID), wish.Gecos, user.Home, shell})
	return user, s.write("passwd", users)
}

// ensureGroup gives a group's id, and makes it if need be, with the wanted id
// if that is free.
func (s Store) ensureGroup(name string, wanted int) (int, error) {
	groups, err := s.table("group")
	if err != nil {
		return 0, err
	}
	if row := groups.find(name); row != nil {
		return strconv.Atoi(row[2])
	}
	id := wanted
	if id == 0 || groups.taken(2, id) {
		id = groups.freeID(2)
	}
	groups.put([]string{name, "x", strconv.Itoa(id), ""})
	return id, s.write("group", groups)
}

func (s Store) join(group, user string) error {
	if _, err := s.ensureGroup(group, 0); err != nil {
		return err
	}
	groups, err := s.table("group")
	if err != nil {
		return err
	}
	row := groups.find(group)
	members := strings.FieldsFunc(row[3], func(r rune) bool { return r == ',' })
	if slices.Contains(members, user) {
		return nil
	}
	row[3] = strings.Join(append(members, user), ",")
	groups.put(row)
	return s.write("group", groups)
}

// makeHome fills a home from /etc/skel, but only what is not there yet.
func (s Store) makeHome(user User) error {
	home := filepath.Join(s.Root, user.Home)
	if err := s.ownDir(home, 0o755, user); err != nil {
		return err
	}
	skeleton := filepath.Join(s.Root, "etc/skel")
	entries, err := os.ReadDir(skeleton)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target := filepath.Join(home, entry.Name())
		if _, err := os.Lstat(target); err == nil || !entry.Type().IsRegular() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(skeleton, entry.Name()))
		if err != nil {
			return err
		}
		if err := replace(target, content, 0o644, user); err != nil {
			return err
		}
	}
	return nil
}

func (s Store) ownDir(path string, mode os.FileMode, owner User) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return os.Chown(path, owner.ID, owner.GID)
}
