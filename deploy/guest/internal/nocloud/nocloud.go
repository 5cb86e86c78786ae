// Package nocloud finds and reads the seed that a hypervisor hands to a guest:
// a small disk labelled cidata. It owns where the seed is and which files it
// has; it must not know what they mean beyond the instance's identity.
//
// Source: cloud-init's NoCloud data source.
package nocloud

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// ErrNoSeed says that the machine has no disk labelled cidata.
var ErrNoSeed = errors.New("no disk is labelled cidata")

// label names the seed's file system, in either case.
const label = "cidata"

// Seed is what the disk held.
type Seed struct {
	Meta Meta
	// User is user-data as it stands; empty when there is none.
	User []byte
	// Network is network-config as it stands; empty when there is none.
	Network []byte
}

// Meta is the honoured part of meta-data.
type Meta struct {
	InstanceID    string     `yaml:"instance-id"`
	LocalHostname string     `yaml:"local-hostname"`
	Hostname      string     `yaml:"hostname"`
	PublicKeys    PublicKeys `yaml:"public-keys"`
}

// PublicKeys are ssh keys, written as a list or as a map by name.
type PublicKeys []string

// UnmarshalYAML reads either spelling.
func (k *PublicKeys) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.MappingNode {
		for i := 1; i < len(node.Content); i += 2 {
			*k = append(*k, node.Content[i].Value)
		}
		return nil
	}
	return node.Decode((*[]string)(k))
}

// Name is the host name that the seed gives; empty when it gives none.
func (m Meta) Name() string {
	if m.LocalHostname != "" {
		return m.LocalHostname
	}
	return m.Hostname
}

// ReadDir reads a seed's files from a folder. meta-data must be there.
func ReadDir(dir string) (Seed, error) {
	var seed Seed
	meta, err := os.ReadFile(filepath.Join(dir, "meta-data"))
	if err != nil {
		return Seed{}, fmt.Errorf("seed: %w", err)
	}
	if err := yaml.Unmarshal(meta, &seed.Meta); err != nil {
		return Seed{}, fmt.Errorf("seed: meta-data: %w", err)
	}
	if seed.User, err = readOptional(filepath.Join(dir, "user-data")); err != nil {
		return Seed{}, err
	}
	if seed.Network, err = readOptional(filepath.Join(dir, "network-config")); err != nil {
		return Seed{}, err
	}
	return seed, nil
}

func readOptional(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	return content, nil
}

// Find looks at every block device, mounts the one labelled cidata read-only
// for as long as reading takes, and reads it. It needs root. Without such a
// device the error is ErrNoSeed.
func Find(mountPoint string) (Seed, error) {
	device, kind, err := findDevice("/sys/class/block", "/dev")
	if err != nil {
		return Seed{}, err
	}
	if err := os.MkdirAll(mountPoint, 0o700); err != nil {
		return Seed{}, fmt.Errorf("seed: %w", err)
	}
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV)
	if err := unix.Mount(device, mountPoint, kind, flags, ""); err != nil {
		return Seed{}, fmt.Errorf("seed: mount %s: %w", device, err)
	}
	seed, err := ReadDir(mountPoint)
	return seed, errors.Join(err, unix.Unmount(mountPoint, 0))
}

// findDevice gives the device's path and the name of its file system.
func findDevice(sysBlock, dev string) (device, kind string, err error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return "", "", fmt.Errorf("seed: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dev, entry.Name())
		kind, name := probe(path)
		if strings.EqualFold(name, label) {
			return path, kind, nil
		}
	}
	return "", "", ErrNoSeed
}
