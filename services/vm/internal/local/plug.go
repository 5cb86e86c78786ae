package local

import (
	"context"
	"errors"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
)

// unplugPatience bounds an Unplug: the guest is told, and QEMU ends what is
// under way on the device.
const unplugPatience = answerTimeout + answerTimeout/2

// Plug implements attachment.Engine.
func (e *Engine) Plug(ctx context.Context, uid string, device machine.Device) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := e.qemu.Plug(ctx, uid, diskOf(device, 0))
	e.lookAgain(uid)
	return plugFault(err, device.ID)
}

// Unplug implements attachment.Engine.
func (e *Engine) Unplug(ctx context.Context, uid, device string) error {
	ctx, cancel := context.WithTimeout(ctx, unplugPatience)
	defer cancel()
	_, id := nameOf(device)
	err := e.qemu.Unplug(ctx, uid, id)
	e.lookAgain(uid)
	if errors.Is(err, qemu.ErrNotFound) || errors.Is(err, qemu.ErrGone) {
		return nil
	}
	return plugFault(err, device)
}

func plugFault(err error, device string) error {
	var refusal *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qemu.ErrNotFound), errors.Is(err, qemu.ErrGone):
		return fault.Wrap(err, fault.NotFound, "VirtualMachineNotRunning", "the VM does not run")
	case errors.Is(err, qemu.ErrInvalid), errors.Is(err, qemu.ErrUnsafe):
		return fault.Wrap(err, fault.Invalid, "InternalVirtualMachineError", "QEMU can't attach %s: %v", device, err)
	case errors.Is(err, qemu.ErrBusy):
		return fault.Wrap(err, fault.Transient, "DetachPending", "the guest still uses %s", device)
	case errors.Is(err, qemu.ErrMoving):
		return fault.Wrap(err, fault.Transient, "VirtualMachineMigrating", "the VM is being migrated: %s waits until that is over", device)
	case errors.As(err, &refusal):
		return fault.Wrap(err, fault.Transient, "InternalVirtualMachineError", "QEMU refuses %s: %s", device, refusal.Desc)
	}
	return unresponsive(err)
}

// pluggedInto are the devices that were plugged into a machine and are there.
func pluggedInto(ctx context.Context, process *qemu.Process) ([]machine.Plugged, error) {
	m, err := process.Present(ctx)
	var devices []machine.Plugged
	for _, d := range m.Plugged {
		devices = append(devices, machine.Plugged{ID: d.Label, Place: d.Slot - qemu.NextSlot(nil, d.Medium)})
	}
	return devices, err
}
