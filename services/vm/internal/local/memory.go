package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/quiesce"
)

// frozenFile is with the memory of a guest whose file systems were frozen.
const frozenFile = "frozen"

func (e *Engine) memoryOf(token string) (string, error) {
	if uuid.Validate(token) != nil {
		return "", fault.New(fault.Invalid, quiesce.ReasonMemory, "no memory is kept under %q", token)
	}
	return filepath.Join(e.memories, token), nil
}

// Keep implements quiesce.Engine.
func (e *Engine) Keep(ctx context.Context, uid, token string, overlays []quiesce.Overlay, atRest bool) error {
	dir, err := e.memoryOf(token)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	if atRest {
		if err := os.WriteFile(filepath.Join(dir, frozenFile), nil, 0o600); err != nil {
			return err
		}
	}
	if err := e.qemu.Save(ctx, uid, dir, filesOf(overlays)); err != nil {
		return errors.Join(switchFault(err), os.RemoveAll(dir))
	}
	return nil
}

// Drop implements quiesce.Engine.
func (e *Engine) Drop(_ context.Context, token string) error {
	dir, err := e.memoryOf(token)
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Recall implements machine.Engine.
func (e *Engine) Recall(ctx context.Context, instance machine.Instance, token string) (bool, error) {
	dir, err := e.memoryOf(token)
	if err != nil {
		return false, err
	}
	m, err := e.furnish(instance)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(filepath.Join(dir, frozenFile))
	atRest := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var start *qemu.StartError
	switch err := e.qemu.Recall(ctx, m, dir); {
	case err == nil:
		return atRest, nil
	case errors.Is(err, qemu.ErrInvalid), errors.As(err, &start):
		return false, fault.Wrap(err, fault.Invalid, quiesce.ReasonMemory, "QEMU can't go on from the kept memory: %v", err)
	default:
		return false, fmt.Errorf("recall memory: %w", err)
	}
}
