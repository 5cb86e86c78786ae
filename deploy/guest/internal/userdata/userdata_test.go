package userdata_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"reflect"
	"testing"

	"orlop.dev/deploy/guest/internal/userdata"
)

func parse(t *testing.T, text string) userdata.Data {
	t.Helper()
	data, err := userdata.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseReadsTheGuidesUser(t *testing.T) {
	data := parse(t, `#cloud-config
ssh_pwauth: True
users:
- name: cloud
  passwd: '$6$rounds=4096$salt$hash'
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  lock_passwd: False
`)
	config := data.Config
	if !config.SSHPasswordAuth.Or(false) || config.Users.WantsDefault() || len(config.Users.List) != 1 {
		t.Fatalf("got %+v", config)
	}
	user := config.Users.List[0]
	want := userdata.User{Name: "cloud", Hash: "$6$rounds=4096$salt$hash", Shell: "/bin/bash"}
	if user.Name != want.Name || user.Hash != want.Hash || user.Shell != want.Shell {
		t.Errorf("got %+v", user)
	}
	if !reflect.DeepEqual(user.Sudo, userdata.List{"ALL=(ALL) NOPASSWD:ALL"}) {
		t.Errorf("sudo: got %q", user.Sudo)
	}
	if user.LockPassword.Or(true) {
		t.Error("lock_passwd: False was not read")
	}
}

func TestUsersTellAbsentFromEmpty(t *testing.T) {
	for text, want := range map[string]bool{
		"#cloud-config\n{}":                            true,
		"#cloud-config\nusers: []":                     false,
		"#cloud-config\nusers: [default]":              true,
		"#cloud-config\nusers: [{name: ann}]":          false,
		"#cloud-config\nusers: [default, {name: ann}]": true,
	} {
		if got := parse(t, text).Config.Users.WantsDefault(); got != want {
			t.Errorf("%q: default user wanted: got %v", text, got)
		}
	}
}

func TestParseSeparatesFormats(t *testing.T) {
	const mixed = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"x\"\n\n" +
		"--x\nContent-Type: text/cloud-config\n\nhostname: one\n" +
		"--x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\ntrue\n" +
		"--x\nContent-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\naG9zdG5hbWU6IHR3bwo=\n" +
		"--x\nContent-Type: text/jinja2\n\nnothing\n--x--\n"
	for _, test := range []struct {
		name, text string
		hostname   string
		scripts    int
		ignored    []string
	}{
		{name: "empty", text: "\n"},
		{name: "script", text: "#!/bin/sh\ntrue\n", scripts: 1},
		{name: "config", text: "#cloud-config\nhostname: one\n", hostname: "one"},
		{name: "compressed", text: compress(t, "#cloud-config\nhostname: one\n"), hostname: "one"},
		{name: "unknown keys are named", text: "#cloud-config\npackages: [vim]\napt: {}\n", ignored: []string{"apt", "packages"}},
		{name: "several, of which the later wins", text: mixed, hostname: "two", scripts: 1, ignored: []string{"text/jinja2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := parse(t, test.text)
			if data.Config.Hostname != test.hostname || len(data.Scripts) != test.scripts || !reflect.DeepEqual(data.Ignored, test.ignored) {
				t.Errorf("got %+v", data)
			}
		})
	}
}

func compress(t *testing.T, text string) string {
	t.Helper()
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

func TestParseRefuses(t *testing.T) {
	if _, err := userdata.Parse([]byte("hostname: one\n")); !errors.Is(err, userdata.ErrUnknownFormat) {
		t.Errorf("no marker: got %v", err)
	}
	for name, text := range map[string]string{
		"user without a name":         "#cloud-config\nusers: [{shell: /bin/sh}]",
		"user name with a colon":      "#cloud-config\nusers: [{name: 'a:b'}]",
		"users that are no list":      "#cloud-config\nusers: {name: a}",
		"permissions not octal":       "#cloud-config\nwrite_files: [{path: /a, permissions: 9}]",
		"a boolean that is none":      "#cloud-config\nssh_pwauth: maybe",
		"a name that is a list":       "#cloud-config\nhostname: [a]",
		"YAML that is none":           "#cloud-config\nusers: [",
		"a MIME message of one part":  "Content-Type: text/plain\n\nx",
		"a compressed text cut short": compress(t, "#cloud-config\n")[:12],
	} {
		if _, err := userdata.Parse([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFileDecodesContentAndMode(t *testing.T) {
	data := parse(t, `#cloud-config
write_files:
- {path: /plain, content: hello}
- {path: /b64, content: aGVsbG8=, encoding: b64, permissions: 755}
- {path: /setuid, content: hello, permissions: '4755'}
- {path: /odd, content: hello, encoding: rot13, permissions: 0o600}
`)
	files := data.Config.WriteFiles
	for i, want := range []fs.FileMode{0o644, 0o755, 0o755 | fs.ModeSetuid, 0o600} {
		if got := files[i].Mode.FileMode(); got != want {
			t.Errorf("%s: mode %v, want %v", files[i].Path, got, want)
		}
	}
	for _, file := range files[:3] {
		if got, err := file.Bytes(); err != nil || string(got) != "hello" {
			t.Errorf("%s: got %q, %v", file.Path, got, err)
		}
	}
	if _, err := files[3].Bytes(); err == nil {
		t.Error("an encoding that nobody knows was accepted")
	}
}

func TestCommandsAndPasswordsHaveTwoSpellings(t *testing.T) {
	config := parse(t, `#cloud-config
runcmd: ["echo a b", [echo, 1, true]]
chpasswd:
  list: |
    ann:secret
    bob:$6$x$y
  users: [{name: eve, password: plain, type: text}, {name: joe, password: $6$x$z}]
`).Config
	wantCommands := []userdata.Command{{"/bin/sh", "-c", "echo a b"}, {"echo", "1", "true"}}
	if !reflect.DeepEqual(config.RunCommands, wantCommands) {
		t.Errorf("runcmd: got %q", config.RunCommands)
	}
	passwords, err := config.ChangePasswords.All()
	want := []userdata.NewPassword{
		{Name: "ann", Password: "secret", Kind: "text"}, {Name: "bob", Password: "$6$x$y", Kind: "hash"},
		{Name: "eve", Password: "plain", Kind: "text"}, {Name: "joe", Password: "$6$x$z"},
	}
	if err != nil || !reflect.DeepEqual(passwords, want) {
		t.Errorf("chpasswd: got %+v, %v", passwords, err)
	}
	random := parse(t, "#cloud-config\nchpasswd: {users: [{name: a, type: RANDOM}]}\n").Config
	if _, err := random.ChangePasswords.All(); err == nil {
		t.Error("a random password, which nobody would learn, was accepted")
	}
}
