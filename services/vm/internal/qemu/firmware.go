package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"orlop.dev/kit/durable"
)

// ErrLacking is a host that lacks a program or a file that a machine needs.
var ErrLacking = errors.New("the host lacks what the machine needs")

// Flash is one kind of UEFI firmware of the host: its code, and the variables
// that a new machine begins with.
type Flash struct{ Code, Variables string }

// flashes are where Debian's package ovmf has them. Those for Secure Boot come
// with Microsoft's keys.
var flashes = map[Firmware]Flash{
	FirmwareEFI:        {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	FirmwareSecureBoot: {"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
}

// findFlashes gives those that are there.
func findFlashes() map[Firmware]Flash {
	found := map[Firmware]Flash{}
	for firmware, flash := range flashes {
		_, code := os.Stat(flash.Code)
		_, variables := os.Stat(flash.Variables)
		if code == nil && variables == nil {
			found[firmware] = flash
		}
	}
	return found
}

// Names of block nodes of the firmware.
const (
	codeNode      = "firmware"
	variablesNode = "variables"
)

func (f Firmware) machineOptions() []string {
	switch f {
	case FirmwareEFI:
		return []string{"pflash0=" + codeNode, "pflash1=" + variablesNode}
	case FirmwareSecureBoot:
		// System management mode is where the firmware guards its variables.
		return []string{"pflash0=" + codeNode, "pflash1=" + variablesNode, "smm=on"}
	}
	return nil
}

func (a *arguments) firmware(m Machine, host Host) {
	if m.Firmware == FirmwareBIOS {
		return
	}
	a.flash(codeNode, host.Flashes[m.Firmware].Code, true)
	a.flash(variablesNode, m.VariablesPath, false)
	if m.Firmware == FirmwareSecureBoot {
		a.add("-global", "driver=cfi.pflash01", "property=secure", "value=on")
	}
}

func (a *arguments) flash(name, path string, readOnly bool) {
	a.node(blockNode{Driver: "file", NodeName: name + "-file", Filename: path, ReadOnly: readOnly, AIO: "threads", Discard: "unmap"})
	a.node(blockNode{Driver: "raw", NodeName: name, File: name + "-file", ReadOnly: readOnly, Discard: "unmap"})
}

// prepareFirmware gives a machine that has no variables yet those of a new one.
// Those that it has stay, whatever the host's package says now.
func (h Host) prepareFirmware(m Machine) error {
	if m.Firmware == FirmwareBIOS {
		return nil
	}
	flash, has := h.Flashes[m.Firmware]
	if !has {
		return fmt.Errorf("%w: firmware for %s (Debian package ovmf)", ErrLacking, m.Firmware)
	}
	_, err := os.Stat(m.VariablesPath)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh, err := os.ReadFile(flash.Variables)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.VariablesPath), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(m.VariablesPath, fresh, 0o600)
}
