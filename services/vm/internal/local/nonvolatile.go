package local

import (
	"context"
	"os"
	"path/filepath"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/qemu"
)

// nonVolatileDir is what a VM has from one instance to the next.
func (e *Engine) nonVolatileDir(uid string) string { return filepath.Join(e.nonVolatile, uid) }

// equip gives a machine its firmware and its chips. Each kind of firmware has
// variables of its own: with another one the guest boots as on a new machine.
func (e *Engine) equip(m *qemu.Machine, bootloader vmv1.Bootloader_Value, system vmv1.OSType_Value) {
	dir := e.nonVolatileDir(m.ID)
	m.Firmware = qemu.FirmwareBIOS
	switch bootloader {
	case vmv1.Bootloader_EFI:
		m.Firmware = qemu.FirmwareEFI
	case vmv1.Bootloader_EFIWithSecureBoot:
		m.Firmware = qemu.FirmwareSecureBoot
	}
	if m.Firmware != qemu.FirmwareBIOS {
		m.VariablesPath = filepath.Join(dir, string(m.Firmware)+".fd")
	}
	if system == vmv1.OSType_Windows {
		m.Windows, m.TPMDir = true, filepath.Join(dir, "tpm")
	}
}

// Discard implements machine.NonVolatile.
func (e *Engine) Discard(_ context.Context, uid string) error {
	return os.RemoveAll(e.nonVolatileDir(uid))
}
