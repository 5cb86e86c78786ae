package userdata

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is the honoured part of a cloud-config document.
type Config struct {
	Hostname string `yaml:"hostname"`
	FQDN     string `yaml:"fqdn"`

	// SSHPasswordAuth lets users log in over ssh with a password.
	SSHPasswordAuth Switch `yaml:"ssh_pwauth"`
	// DisableRoot keeps root from logging in over ssh; on unless said otherwise.
	DisableRoot Switch `yaml:"disable_root"`
	// SSHDeleteKeys makes a new instance forget the host keys of the image; on
	// unless said otherwise.
	SSHDeleteKeys     Switch   `yaml:"ssh_deletekeys"`
	SSHAuthorizedKeys []string `yaml:"ssh_authorized_keys"`

	// Password is the default user's, in plain text.
	Password        string          `yaml:"password"`
	ChangePasswords ChangePasswords `yaml:"chpasswd"`
	Users           Users           `yaml:"users"`

	WriteFiles   []File    `yaml:"write_files"`
	BootCommands []Command `yaml:"bootcmd"`
	RunCommands  []Command `yaml:"runcmd"`
}

// silent are keys that ask for what the guest does anyway.
var silent = map[string]bool{"growpart": true, "resize_rootfs": true, "locale": true, "final_message": true}

func honoured(key string) bool {
	if silent[key] {
		return true
	}
	kind := reflect.TypeFor[Config]()
	for i := range kind.NumField() {
		if kind.Field(i).Tag.Get("yaml") == key {
			return true
		}
	}
	return false
}

// Users is the value of users. Absent and empty differ: an image's default user
// is made unless the list is given without it.
type Users struct {
	Given   bool
	Default bool
	List    []User
}

// UnmarshalYAML reads a list whose items are "default" or a user.
func (u *Users) UnmarshalYAML(node *yaml.Node) error {
	*u = Users{Given: true}
	if node.Kind == yaml.ScalarNode && node.Value == "default" {
		u.Default = true
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: users must be a list", node.Line)
	}
	for _, item := range node.Content {
		if item.Kind == yaml.ScalarNode && item.Value == "default" {
			u.Default = true
			continue
		}
		var user User
		if err := item.Decode(&user); err != nil {
			return err
		}
		u.List = append(u.List, user)
	}
	return nil
}

// WantsDefault says whether the image's own user is to be made.
func (u Users) WantsDefault() bool { return u.Default || !u.Given }

// User is one account, in cloud-init's words.
type User struct {
	Name string `yaml:"name"`
	// Hash is a crypt(5) string, set when the account is made.
	Hash string `yaml:"passwd"`
	// HashAlways is a crypt(5) string, set even if the account exists.
	HashAlways string `yaml:"hashed_passwd"`
	// PlainText is a password in clear, set even if the account exists.
	PlainText string `yaml:"plain_text_passwd"`
	// LockPassword keeps any password from being used; on unless said otherwise.
	LockPassword      Switch   `yaml:"lock_passwd"`
	Gecos             string   `yaml:"gecos"`
	Home              string   `yaml:"homedir"`
	Shell             string   `yaml:"shell"`
	UID               int      `yaml:"uid"`
	PrimaryGroup      string   `yaml:"primary_group"`
	Groups            List     `yaml:"groups"`
	Sudo              List     `yaml:"sudo"`
	SSHAuthorizedKeys []string `yaml:"ssh_authorized_keys"`
}

// UnmarshalYAML reads a user, and refuses one without a usable name.
func (u *User) UnmarshalYAML(node *yaml.Node) error {
	type plain User
	if err := node.Decode((*plain)(u)); err != nil {
		return err
	}
	if u.Name == "" || strings.ContainsAny(u.Name, ":/\n \t") {
		return fmt.Errorf("line %d: a user needs a name, without space, colon or slash", node.Line)
	}
	return nil
}

// ChangePasswords is the value of chpasswd.
type ChangePasswords struct {
	// List holds lines "name:password"; a password that begins with $ is a hash.
	List  Lines         `yaml:"list"`
	Users []NewPassword `yaml:"users"`
}

// NewPassword is one item of chpasswd.users.
type NewPassword struct {
	Name     string `yaml:"name"`
	Password string `yaml:"password"`
	// Kind is "hash" (also when empty) or "text". "RANDOM" is refused: nobody
	// would learn the password.
	Kind string `yaml:"type"`
}

// All gives both spellings of chpasswd as one list.
func (c ChangePasswords) All() ([]NewPassword, error) {
	var all []NewPassword
	for _, line := range c.List {
		name, password, found := strings.Cut(line, ":")
		if !found {
			return nil, fmt.Errorf("chpasswd.list: a line is not name:password")
		}
		kind := "text"
		if strings.HasPrefix(password, "$") {
			kind = "hash"
		}
		all = append(all, NewPassword{Name: name, Password: password, Kind: kind})
	}
	for _, item := range c.Users {
		switch item.Kind {
		case "", "hash", "text":
			all = append(all, item)
		default:
			return nil, fmt.Errorf("chpasswd.users: type %s of %s is not supported", item.Kind, item.Name)
		}
	}
	return all, nil
}
