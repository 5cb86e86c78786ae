package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"

	"orlop.dev/kit/durable"
	"orlop.dev/services/vm/internal/cgroup"
	"orlop.dev/services/vm/internal/qemu"
)

// groupsFile says where the control groups of an engine's guests are: whoever
// ends guests without the engine removes them.
const groupsFile = "cgroups"

// openLimits finds what limits guests' processor time. Where there is nothing,
// reason says why: a part of a sentence.
func openLimits(dir string) (limits qemu.Limiter, reason string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256([]byte(dir))
	tree, err := cgroup.Open("orlop-" + hex.EncodeToString(sum[:4]))
	if errors.Is(err, cgroup.ErrUnavailable) {
		return nil, err.Error(), nil
	}
	if err != nil {
		return nil, "", err
	}
	return tree, "", durable.WriteFile(filepath.Join(dir, groupsFile), []byte(tree.Dir()+"\n"), 0o600)
}
