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

// limits limit guests' processor time; where there is nothing that does, reason
// says why: a part of a sentence.
type limits struct {
	qemu.Limiter
	reason string
	close  func()
}

func openLimits(dir string) (limits, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return limits{}, err
	}
	sum := sha256.Sum256([]byte(dir))
	tree, err := cgroup.Open("orlop-" + hex.EncodeToString(sum[:4]))
	if errors.Is(err, cgroup.ErrUnavailable) {
		return limits{reason: err.Error(), close: func() {}}, nil
	}
	if err != nil {
		return limits{}, err
	}
	return limits{Limiter: tree, close: tree.Close}, durable.WriteFile(filepath.Join(dir, groupsFile), []byte(tree.Dir()+"\n"), 0o600)
}
