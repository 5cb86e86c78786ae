package local

import (
	"context"
	"errors"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
)

// Prepare implements migration.Engine.
func (e *Engine) Prepare(ctx context.Context, uid, attempt string, port *networkv1.Port, copies []migration.Copy) error {
	tap := ""
	if port.GetMode() == networkv1.PortMode_Tap {
		tap = port.GetTap()
	}
	files := make([]qemu.Copy, 0, len(copies))
	for _, c := range copies {
		_, id := nameOf(c.Device)
		files = append(files, qemu.Copy{Disk: id, Path: c.Path, Mark: c.Mark})
	}
	return migrationFault(e.qemu.Receive(ctx, uid, attempt, tap, files))
}

// Send implements migration.Engine.
func (e *Engine) Send(ctx context.Context, uid, attempt string, limits migration.Limits) error {
	return migrationFault(e.qemu.Send(ctx, uid, attempt, qemu.Limits{
		BytesPerSecond: limits.BytesPerSecond, Downtime: limits.Downtime, Converge: limits.Converge,
	}))
}

// Progress implements migration.Engine.
func (e *Engine) Progress(ctx context.Context, uid, attempt string) (migration.Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	t, err := e.qemu.Transfer(ctx, uid, attempt)
	if err != nil {
		return migration.Sight{}, migrationFault(err)
	}
	return migration.Sight{
		Stage: stageOf(t.State), TotalBytes: t.TotalBytes, RemainingBytes: t.RemainingBytes,
		DirtyRate: t.DirtyRate, Rate: t.Rate, Rounds: t.Rounds, ThrottlePercent: t.ThrottlePercent,
		Copying: t.Copying, CopiedBytes: t.CopiedBytes,
		Elapsed: t.Elapsed, Downtime: t.Downtime, Failure: t.Failure,
	}, nil
}

// Abort implements migration.Engine.
func (e *Engine) Abort(ctx context.Context, uid, attempt string) error {
	return migrationFault(e.qemu.Abort(ctx, uid, attempt))
}

func stageOf(state qemu.TransferState) migration.Stage {
	switch state {
	case qemu.TransferWaiting:
		return migration.Prepared
	case qemu.TransferRunning:
		return migration.Syncing
	case qemu.TransferSwitching:
		return migration.Suspended
	case qemu.TransferMoved:
		return migration.Moved
	case qemu.TransferFailed:
		return migration.Failed
	}
	return migration.Absent
}

func migrationFault(err error) error {
	var refusal *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qemu.ErrNotFound), errors.Is(err, qemu.ErrGone):
		return fault.Wrap(err, fault.NotFound, "VirtualMachineNotRunning", "the VM does not run, or not any more")
	case errors.Is(err, qemu.ErrUnresponsive):
		return unresponsive(err)
	case errors.As(err, &refusal):
		return fault.Wrap(err, fault.Transient, migration.ReasonFailed, "QEMU refuses: %s", refusal.Desc)
	}
	return startFault(err)
}
