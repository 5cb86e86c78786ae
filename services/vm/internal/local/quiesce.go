package local

import (
	"context"
	"errors"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
	"orlop.dev/services/vm/internal/quiesce"
)

// Switched implements quiesce.Engine.
func (e *Engine) Switched(ctx context.Context, uid string, overlays []quiesce.Overlay) (running, switched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	process, err := e.qemu.Find(ctx, uid)
	if errors.Is(err, qemu.ErrNotFound) {
		return false, false, nil
	}
	var files map[string]string
	if err == nil {
		files, err = process.Files(ctx)
	}
	if errors.Is(err, qemu.ErrGone) {
		return false, false, nil
	}
	if err != nil {
		return false, false, unresponsive(err)
	}
	for _, o := range overlays {
		if _, id := nameOf(o.Device); files[id] != o.Path {
			return true, false, nil
		}
	}
	return true, true, nil
}

// Switch implements quiesce.Engine.
func (e *Engine) Switch(ctx context.Context, uid string, overlays []quiesce.Overlay) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return switchFault(e.qemu.Switch(ctx, uid, filesOf(overlays)))
}

func filesOf(overlays []quiesce.Overlay) []qemu.Overlay {
	files := make([]qemu.Overlay, len(overlays))
	for i, o := range overlays {
		_, id := nameOf(o.Device)
		files[i] = qemu.Overlay{Disk: id, Path: o.Path}
	}
	return files
}

func switchFault(err error) error {
	var refusal *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qemu.ErrNotFound), errors.Is(err, qemu.ErrGone):
		return fault.Wrap(err, fault.Transient, "VirtualMachineNotRunning", "the VM has stopped in between")
	case errors.Is(err, qemu.ErrBusy):
		return fault.Wrap(err, fault.NotReady, "VirtualMachineMigrating", "the VM moves to another node, starts or stops").WithRetryAfter(time.Second)
	case errors.Is(err, qemu.ErrCannotSave):
		return fault.Wrap(err, fault.Invalid, quiesce.ReasonMemory, "%v", err)
	case errors.Is(err, qemu.ErrInvalid):
		return fault.Wrap(err, fault.NotReady, "VirtualDiskNotReady", "the VM does not run with all of these disks")
	case errors.As(err, &refusal):
		return fault.Wrap(err, fault.Transient, "SwitchingFailed", "QEMU can't write to other files now")
	}
	return unresponsive(err)
}

// Freeze implements quiesce.Engine.
func (e *Engine) Freeze(ctx context.Context, uid string) (int, error) {
	process, err := e.running(ctx, uid)
	if err != nil {
		return 0, err
	}
	open, err := process.AgentOpen(ctx)
	if err != nil {
		return 0, unresponsive(err)
	}
	if !open {
		return 0, fault.New(fault.NotReady, "AgentNotReady", "no guest agent answers: install and start qemu-guest-agent in the guest")
	}
	// One that hangs is found out sooner by a smaller question, and is not told
	// anything that it would do later.
	if err := process.Agent().Ping(ctx); err != nil {
		return 0, fault.Wrap(err, fault.NotReady, "AgentNotReady", "the guest agent does not answer")
	}
	count, err := process.Agent().FreezeFilesystems(ctx)
	if err != nil {
		return 0, fault.Wrap(err, fault.NotReady, "AgentNotReady", "the guest agent can't freeze the file systems")
	}
	return count, nil
}

// Thaw implements quiesce.Engine.
func (e *Engine) Thaw(ctx context.Context, uid string) (int, error) {
	process, err := e.running(ctx, uid)
	if fault.Is(err, fault.NotReady) {
		return 0, nil // what ended is not frozen
	}
	if err != nil {
		return 0, err
	}
	count, err := process.Agent().ThawFilesystems(ctx)
	if err != nil {
		select {
		case <-process.Gone():
			return 0, nil
		default:
		}
		return 0, fault.Wrap(err, fault.Transient, "AgentNotReady", "the guest agent does not answer")
	}
	return count, nil
}
