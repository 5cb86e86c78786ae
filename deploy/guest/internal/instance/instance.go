// Package instance applies a seed to the guest it runs in: the host name and
// the network at each boot, users, files and commands once an instance. It owns
// the order and what is done once; formats and files are its neighbours'.
package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"orlop.dev/deploy/guest/internal/account"
	"orlop.dev/deploy/guest/internal/nocloud"
	"orlop.dev/deploy/guest/internal/userdata"
)

const (
	stateDir   = "/var/lib/cloud"
	seedMount  = "/run/seed"
	defaultTag = "iid-datasource-none"
	// defaultUser is the one that Debian's cloud images make.
	defaultUser = "debian"
)

// Guest is the running system.
type Guest struct {
	log      *slog.Logger
	accounts account.Store
}

// New gives the system that the process runs in.
func New(log *slog.Logger) *Guest {
	return &Guest{log: log, accounts: account.Store{Root: "/"}}
}

// wish is one boot's seed, read.
type wish struct {
	seed nocloud.Seed
	data userdata.Data
	id   string
}

// Start is the first stage: it must end before anyone can log in. It blocks for
// as long as applying takes, but not for a DHCP answer. One part that fails
// doesn't keep the others from being applied; all failures are returned.
func (g *Guest) Start(ctx context.Context) error {
	failure := g.growRoot(ctx)
	wish, err := g.read()
	failure = errors.Join(failure, err)
	if err := g.setHostname(wish); err != nil {
		failure = errors.Join(failure, err)
	}
	failure = errors.Join(failure, g.setNetwork(ctx, wish.seed.Network))
	fresh := wish.id != g.currentID()
	if fresh {
		g.log.Info("new instance", "id", wish.id)
		failure = errors.Join(failure, g.renew(wish))
	}
	failure = errors.Join(failure, g.writeLogin(wish.data.Config))
	for _, command := range wish.data.Config.BootCommands {
		failure = errors.Join(failure, g.run(ctx, command))
	}
	// The identity is written even after a failure: what can't be applied now
	// can't at the next boot either, and a user's password must not be set back
	// each time.
	if fresh {
		failure = errors.Join(failure, writeState("instance-id", wish.id+"\n"))
	}
	return failure
}

// Finish is the last stage, when the guest is usable: commands and scripts,
// once an instance. It blocks until they have ended.
func (g *Guest) Finish(ctx context.Context) error {
	done := filepath.Join("instances", fileName(g.currentID()))
	if _, err := os.Stat(filepath.Join(stateDir, done)); err == nil {
		return nil
	}
	wish, err := g.read()
	if err != nil {
		return err
	}
	var failure error
	for _, command := range wish.data.Config.RunCommands {
		failure = errors.Join(failure, g.run(ctx, command))
	}
	for number, script := range wish.data.Scripts {
		failure = errors.Join(failure, g.runScript(ctx, number, script))
	}
	return errors.Join(failure, writeState(done, ""))
}

// read finds the seed. A guest whose seed was taken away stays what it is.
func (g *Guest) read() (wish, error) {
	seed, err := nocloud.Find(seedMount)
	if errors.Is(err, nocloud.ErrNoSeed) {
		id := g.currentID()
		if id == "" {
			id = defaultTag
		}
		return wish{id: id}, nil
	}
	if err != nil {
		return wish{id: defaultTag}, err
	}
	data, err := userdata.Parse(seed.User)
	if len(data.Ignored) > 0 {
		g.log.Warn("user-data has keys that this guest does not honour", "keys", data.Ignored)
	}
	return wish{seed: seed, data: data, id: identity(seed.Meta)}, err
}

// identity falls back on the name, for seeds made by hand without an id.
func identity(meta nocloud.Meta) string {
	if meta.InstanceID != "" {
		return meta.InstanceID
	}
	return "iid-" + meta.Name()
}

func (g *Guest) currentID() string {
	id, err := os.ReadFile(filepath.Join(stateDir, "instance-id"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

func writeState(name, content string) error {
	path := filepath.Join(stateDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return writeFile(path, content, 0o644)
}

// writeFile replaces a file in one step.
func writeFile(path, content string, mode os.FileMode) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(content), mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// fileName makes an id safe to use as the name of a file.
func fileName(id string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '_'
		}
		return r
	}, "iid."+id)
}
