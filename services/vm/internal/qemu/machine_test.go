package qemu_test

import (
	"errors"
	"net/netip"
	"testing"

	"orlop.dev/services/vm/internal/qemu"
)

func TestAMachineThatMakesNoSenseIsRefused(t *testing.T) {
	tests := map[string]func(m *qemu.Machine){
		"no ID":                     func(m *qemu.Machine) { m.ID = "" },
		"a path for an ID":          func(m *qemu.Machine) { m.ID = "../../../../etc/00000000-0000-0000" },
		"an option in the name":     func(m *qemu.Machine) { m.Name = "vm,process=x" },
		"an option in the model":    func(m *qemu.Machine) { m.CPU.Model = "host,migratable=off" },
		"an option in a feature":    func(m *qemu.Machine) { m.CPU.Features = []string{"vmx,x=y"} },
		"no cores":                  func(m *qemu.Machine) { m.CPU.CoresPerSocket = 0 },
		"too many cores":            func(m *qemu.Machine) { m.CPU = qemu.CPU{Sockets: 16, CoresPerSocket: 16} },
		"no memory":                 func(m *qemu.Machine) { m.MemoryBytes = 0 },
		"half a MiB":                func(m *qemu.Machine) { m.MemoryBytes += 512 << 10 },
		"firmware that isn't there": func(m *qemu.Machine) { m.Firmware = "EFI" },
		"firmware of no kind":       func(m *qemu.Machine) { m.Firmware = "Coreboot" },
		"a relative TPM":            func(m *qemu.Machine) { m.TPMDir = "tpm" },
		"devices of no kind":        func(m *qemu.Machine) { m.Devices = "" },
		"a relative seed":           func(m *qemu.Machine) { m.SeedPath = "seed.iso" },
		"a disk called seed":        func(m *qemu.Machine) { m.Disks[0].ID = "seed" },
		"two disks of one ID":       func(m *qemu.Machine) { m.Disks[0].ID = m.Disks[1].ID },
		"a relative disk":           func(m *qemu.Machine) { m.Disks[0].Path = "disk" },
		"a disk of no format":       func(m *qemu.Machine) { m.Disks[0].Format = "" },
		"a disk written as VMDK":    func(m *qemu.Machine) { m.Disks[0].Format = qemu.FormatVMDK },
		"a disk of no kind":         func(m *qemu.Machine) { m.Disks[0].Medium = "" },
		"an option in the serial":   func(m *qemu.Machine) { m.Disks[0].Serial = "x,share-rw=on" },
		"an option in the tap":      func(m *qemu.Machine) { m.Network.Tap = "tap0,x=y" },
		"no MAC address":            func(m *qemu.Machine) { m.Network.MAC = "" },
		"network of no kind":        func(m *qemu.Machine) { m.Network.Mode = "" },
		"a relative namespace":      func(m *qemu.Machine) { m.Network.Namespace = "../x" },
		"user network without any":  func(m *qemu.Machine) { m.Network.Mode = qemu.NetworkUser },
		"gateway outside": func(m *qemu.Machine) {
			*m = emulatedMachine()
			m.Network.User.Gateway = netip.MustParseAddr("10.0.0.1")
		},
		"guest at the gateway's address": func(m *qemu.Machine) {
			*m = emulatedMachine()
			m.Network.User.Guest = m.Network.User.Gateway
		},
		"resolver at the gateway's address": func(m *qemu.Machine) {
			*m = emulatedMachine()
			m.Network.User.DNS = m.Network.User.Gateway
		},
		"subnet without room": func(m *qemu.Machine) {
			*m = emulatedMachine()
			m.Network.User.Subnet = netip.MustParsePrefix("10.66.10.2/32")
		},
		"forward to no port": func(m *qemu.Machine) {
			*m = emulatedMachine()
			m.Network.User.Forward[0].GuestPort = 0
		},
	}
	if err := fullMachine().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := fullMachine()
			spoil(&m)
			if err := m.Validate(); !errors.Is(err, qemu.ErrInvalid) {
				t.Errorf("error %v", err)
			}
		})
	}
}
