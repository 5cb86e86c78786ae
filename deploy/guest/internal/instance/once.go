package instance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"orlop.dev/deploy/guest/internal/account"
	"orlop.dev/deploy/guest/internal/userdata"
)

// renew applies what an instance gets once.
func (g *Guest) renew(w wish) error {
	config := w.data.Config
	var failure error
	if config.SSHDeleteKeys.Or(true) {
		failure = errors.Join(failure, forgetHostKeys())
	}
	for _, user := range g.users(w) {
		if err := g.applyUser(user); err != nil {
			failure = errors.Join(failure, fmt.Errorf("user %s: %w", user.Name, err))
		}
	}
	failure = errors.Join(failure, g.changePasswords(config))
	for _, file := range config.WriteFiles {
		if err := writeUserFile(file); err != nil {
			failure = errors.Join(failure, fmt.Errorf("write_files: %s: %w", file.Path, err))
		}
	}
	return failure
}

// users are those of the seed, with the image's own where it is wanted. The
// keys that name no user are the first one's.
func (g *Guest) users(w wish) []userdata.User {
	config := w.data.Config
	var users []userdata.User
	if config.Users.WantsDefault() {
		users = append(users, userdata.User{
			Name: defaultUser, Gecos: "Debian", Shell: "/bin/bash", PlainText: config.Password,
			Groups: userdata.List{"sudo", "adm"}, Sudo: userdata.List{"ALL=(ALL) NOPASSWD:ALL"},
		})
	}
	users = append(users, config.Users.List...)
	if len(users) > 0 {
		keys := append(append([]string{}, config.SSHAuthorizedKeys...), w.seed.Meta.PublicKeys...)
		users[0].SSHAuthorizedKeys = append(keys, users[0].SSHAuthorizedKeys...)
	}
	return users
}

func (g *Guest) applyUser(wanted userdata.User) error {
	made, err := g.accounts.Ensure(account.Wish{
		Name: wanted.Name, Gecos: wanted.Gecos, Home: wanted.Home, Shell: wanted.Shell,
		ID: wanted.UID, PrimaryGroup: wanted.PrimaryGroup, Groups: wanted.Groups,
	})
	if err != nil {
		return err
	}
	if err := g.applyPassword(wanted, made.Created()); err != nil {
		return err
	}
	if err := g.accounts.AllowSudo(wanted.Name, wanted.Sudo); err != nil {
		return err
	}
	return g.accounts.Authorize(wanted.Name, wanted.SSHAuthorizedKeys)
}

// applyPassword follows cloud-init: passwd counts only for an account that was
// just made, the other two always.
func (g *Guest) applyPassword(wanted userdata.User, created bool) error {
	hash := wanted.HashAlways
	if hash == "" && created {
		hash = wanted.Hash
	}
	if wanted.PlainText != "" {
		var err error
		if hash, err = hashPassword(wanted.PlainText); err != nil {
			return err
		}
	}
	// The image's own user is unlocked by giving it a password.
	isDefault := wanted.Name == defaultUser && wanted.PlainText != ""
	locked := wanted.LockPassword.Or(!isDefault)
	switch {
	case hash != "":
		return g.accounts.SetPassword(wanted.Name, hash, locked)
	case !locked:
		return g.accounts.Unlock(wanted.Name)
	default:
		return nil
	}
}

func (g *Guest) changePasswords(config userdata.Config) error {
	changes, err := config.ChangePasswords.All()
	if err != nil {
		return err
	}
	for _, change := range changes {
		hash := change.Password
		if change.Kind == "text" {
			if hash, err = hashPassword(change.Password); err != nil {
				return err
			}
		}
		if err := g.accounts.SetPassword(change.Name, hash, false); err != nil {
			return err
		}
	}
	return nil
}

// hashPassword asks busybox, whose crypt is the one that checks the password
// later. The password goes in by stdin, so that no other process sees it.
func hashPassword(plain string) (string, error) {
	command := exec.Command("/bin/busybox", "mkpasswd", "-m", "sha512", "-P", "0")
	command.Stdin = strings.NewReader(plain + "\n")
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("mkpasswd: %w", err)
	}
	return string(bytes.TrimSpace(output)), nil
}

// forgetHostKeys makes dropbear draw new ones when it next needs them.
func forgetHostKeys() error {
	keys, err := filepath.Glob("/etc/dropbear/dropbear_*_host_key")
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := os.Remove(key); err != nil {
			return err
		}
	}
	return nil
}

func writeUserFile(file userdata.File) error {
	content, err := file.Bytes()
	if err != nil {
		return err
	}
	if !filepath.IsAbs(file.Path) {
		return errors.New("the path is not absolute")
	}
	if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if file.Append {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	target, err := os.OpenFile(file.Path, flags, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if _, err := target.Write(content); err != nil {
		return err
	}
	if err := chown(target, file.Owner); err != nil {
		return err
	}
	// After chown, which takes setuid away.
	return target.Chmod(file.Mode.FileMode())
}

func chown(file *os.File, owner string) error {
	name, group, _ := strings.Cut(owner, ":")
	if name == "" && group == "" {
		return nil
	}
	id, gid := "0", "0"
	if name != "" {
		found, err := user.Lookup(name)
		if err != nil {
			return err
		}
		id, gid = found.Uid, found.Gid
	}
	if group != "" {
		found, err := user.LookupGroup(group)
		if err != nil {
			return err
		}
		gid = found.Gid
	}
	numericID, errID := strconv.Atoi(id)
	numericGID, errGID := strconv.Atoi(gid)
	if err := errors.Join(errID, errGID); err != nil {
		return err
	}
	return file.Chown(numericID, numericGID)
}
