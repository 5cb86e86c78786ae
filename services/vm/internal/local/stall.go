package local

import (
	"context"

	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
)

// stalledBy names the devices for which a guest stands still.
func stalledBy(ctx context.Context, process *qemu.Process) ([]machine.Stalled, error) {
	found, err := process.Stalled(ctx)
	if err != nil {
		return nil, err
	}
	var stalled []machine.Stalled
	for _, one := range found {
		stalled = append(stalled, machine.Stalled{ID: one.Label, NoSpace: one.NoSpace})
	}
	return stalled, nil
}
