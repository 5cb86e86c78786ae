package account_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/deploy/guest/internal/account"
)

// newStore gives a root folder like the image's. Files are given to other
// users, which root alone may do.
func newStore(t *testing.T) (account.Store, func(string) string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("gives files to other users: needs root")
	}
	root := t.TempDir()
	for path, content := range map[string]string{
		"etc/passwd":       "root:x:0:0:root:/root:/bin/bash\ntaken:x:1000:1000::/home/taken:/bin/sh\n",
		"etc/group":        "root:x:0:\nsudo:x:27:root\ntaken:x:1000:\n",
		"etc/shadow":       "root:*::0:99999:7:::\ntaken:*::0:99999:7:::\n",
		"etc/skel/.bashrc": "# skeleton\n",
		"etc/sudoers.d/x":  "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	return account.Store{Root: root}, read
}

func TestEnsureMakesAnAccountOnce(t *testing.T) {
	store, read := newStore(t)
	wish := account.Wish{Name: "cloud", Shell: "/bin/bash", Groups: []string{"sudo", "pilots"}}
	for _, created := range []bool{true, false} {
		user, err := store.Ensure(wish)
		if err != nil || user.ID != 1001 || user.Created() != created {
			t.Fatalf("got %+v, %v", user, err)
		}
	}
	for path, want := range map[string]string{
		"etc/passwd":         "cloud:x:1001:1001::/home/cloud:/bin/bash\n",
		"etc/group":          "sudo:x:27:root,cloud\n",
		"etc/shadow":         "cloud:!::0:99999:7:::\n",
		"home/cloud/.bashrc": "# skeleton\n",
	} {
		if got := read(path); strings.Count(got, want) != 1 {
			t.Errorf("%s: want once %q in %q", path, want, got)
		}
	}
	if got := read("etc/group"); !strings.Contains(got, "pilots:x:1002:cloud\n") {
		t.Errorf("a group that was joined is not there: %q", got)
	}
}

func TestPasswordIsLockedAndUnlocked(t *testing.T) {
	store, read := newStore(t)
	if _, err := store.Ensure(account.Wish{Name: "cloud"}); err != nil {
		t.Fatal(err)
	}
	field := func() string {
		_, rest, _ := strings.Cut(read("etc/shadow"), "cloud:")
		hash, _, _ := strings.Cut(rest, ":")
		return hash
	}
	if err := store.Unlock("cloud"); err != nil || field() != "!" {
		t.Errorf("an account without a password was opened: %q, %v", field(), err)
	}
	if err := store.SetPassword("cloud", "$6$a$b", true); err != nil || field() != "!$6$a$b" {
		t.Errorf("locked: %q, %v", field(), err)
	}
	if err := store.Unlock("cloud"); err != nil || field() != "$6$a$b" {
		t.Errorf("unlocked: %q, %v", field(), err)
	}
	if err := store.SetPassword("nobody-here", "x", false); !errors.Is(err, account.ErrNoUser) {
		t.Errorf("unknown user: %v", err)
	}
	if err := store.SetPassword("cloud", "x:0:0::/:\nroot2", false); err == nil {
		t.Error("a hash that breaks out of its field was accepted")
	}
}

func TestKeysAndRulesAreAddedOnce(t *testing.T) {
	store, read := newStore(t)
	if _, err := store.Ensure(account.Wish{Name: "cloud"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := store.Authorize("cloud", []string{"ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"}); err != nil {
			t.Fatal(err)
		}
		if err := store.AllowSudo("cloud", []string{"ALL=(ALL) NOPASSWD:ALL"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := read("home/cloud/.ssh/authorized_keys"); got != "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n" {
		t.Errorf("keys: %q", got)
	}
	if got := read("etc/sudoers.d/90-cloud-init-users"); got != "cloud ALL=(ALL) NOPASSWD:ALL\n" {
		t.Errorf("rules: %q", got)
	}
	info, err := os.Stat(filepath.Join(store.Root, "home/cloud/.ssh/authorized_keys"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("keys: %v, %v", info.Mode(), err)
	}
	if err := store.AllowSudo("cloud", []string{"ALL\nroot2 ALL"}); err == nil {
		t.Error("a rule of two lines was accepted")
	}
}
