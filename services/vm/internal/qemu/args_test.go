package qemu_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func kvmHost() qemu.Host {
	return qemu.Host{
		Binary: "/usr/bin/qemu-system-x86_64", Version: qmp.Version{Major: 10, Micro: 2},
		Accelerator: qemu.AcceleratorKVM, MachineType: "pc-q35-10.0", Sandbox: true,
		Flashes: map[qemu.Firmware]qemu.Flash{
			qemu.FirmwareEFI:        {Code: "/ovmf/code.fd", Variables: "/ovmf/vars.fd"},
			qemu.FirmwareSecureBoot: {Code: "/ovmf/secure.fd", Variables: "/ovmf/keys.fd"},
		},
	}
}

func tcgHost() qemu.Host {
	h := kvmHost()
	h.Accelerator, h.Sandbox = qemu.AcceleratorTCG, false
	return h
}

func smallMachine() qemu.Machine {
	return qemu.Machine{
		ID: machineID, Name: "default/linux-vm", Type: "pc-q35-10.0",
		CPU: qemu.CPU{Sockets: 1, CoresPerSocket: 1}, MemoryBytes: 512 << 20,
		Firmware: qemu.FirmwareBIOS, Devices: qemu.DevicesVirtio,
		Network: qemu.Network{Mode: qemu.NetworkNone},
	}
}

func fullMachine() qemu.Machine {
	m := smallMachine()
	m.CPU = qemu.CPU{Model: "host", Features: []string{"vmx"}, Sockets: 2, CoresPerSocket: 4}
	m.MemoryBytes = 8 << 30
	m.SeedPath = "/run/orlop/seed.iso"
	m.Disks = []qemu.Disk{
		{ID: "root", Serial: "vd-root", Path: "/disks/root, with comma.qcow2", Format: qemu.FormatQCOW2,
			Medium: qemu.MediumDisk, BootIndex: 1},
		{ID: "data", Serial: "0123456789012345678901234567", Path: "/disks/data.raw", Format: qemu.FormatRaw,
			Medium: qemu.MediumDisk},
		{ID: "iso", Path: "/disks/install.iso", Format: qemu.FormatRaw, Medium: qemu.MediumCDROM, BootIndex: 2},
	}
	m.Network = qemu.Network{Mode: qemu.NetworkTap, MAC: "52:54:00:12:34:56", Tap: "tap7", Namespace: "orlop"}
	return m
}

func emulatedMachine() qemu.Machine {
	m := fullMachine()
	m.Devices, m.CPU.Model = qemu.DevicesEmulated, ""
	for _, id := range []string{"d3", "d4", "d5", "d6"} {
		m.Disks = append(m.Disks, qemu.Disk{ID: id, Path: "/disks/" + id, Format: qemu.FormatVMDK,
			Medium: qemu.MediumDisk, ReadOnly: true})
	}
	m.Network = qemu.Network{Mode: qemu.NetworkUser, MAC: "52:54:00:12:34:56", User: &qemu.UserNetwork{
		Subnet:   netip.MustParsePrefix("10.66.10.0/24"),
		Gateway:  netip.MustParseAddr("10.66.10.1"),
		Guest:    netip.MustParseAddr("10.66.10.2"),
		Isolated: true,
		Forward:  []qemu.Forward{{Host: netip.MustParseAddrPort("127.0.0.1:2222"), GuestPort: 22}},
	}}
	return m
}

func efiMachine() qemu.Machine {
	m := smallMachine()
	m.Firmware, m.VariablesPath = qemu.FirmwareEFI, "/vm/EFI.fd"
	m.CPU.Model, m.CPU.Exact = "Nehalem", true
	return m
}

func windowsMachine() qemu.Machine {
	m := smallMachine()
	m.Firmware, m.VariablesPath = qemu.FirmwareSecureBoot, "/vm/EFIWithSecureBoot.fd"
	m.Windows, m.TPMDir = true, "/vm/tpm"
	return m
}

// chains stands in for what Layers would find on disk.
func chains(m qemu.Machine) qemu.Chains {
	found := qemu.Chains{"seed": {{Path: m.SeedPath, Format: qemu.FormatRaw}}}
	for _, d := range m.Disks {
		found[d.ID] = []qemu.Layer{{Path: d.Path, Format: d.Format, Direct: true}}
	}
	if root, ok := found["root"]; ok {
		found["root"] = append(root,
			qemu.Layer{Path: "/disks/middle.qcow2", Format: qemu.FormatQCOW2, Direct: true},
			qemu.Layer{Path: "/disks/base.vdi", Format: qemu.FormatVDI})
	}
	return found
}

func TestArgsAreTheGoldenOnes(t *testing.T) {
	tests := map[string]struct {
		machine qemu.Machine
		host    qemu.Host
	}{
		"small-tcg":         {smallMachine(), tcgHost()},
		"full-kvm":          {fullMachine(), kvmHost()},
		"full-tcg":          {fullMachine(), tcgHost()},
		"emulated-user-tcg": {emulatedMachine(), tcgHost()},
		"windows-kvm":       {windowsMachine(), kvmHost()},
		"efi-tcg":           {efiMachine(), tcgHost()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := test.machine.Validate(); err != nil {
				t.Fatal(err)
			}
			got := lines(qemu.Args(test.machine, test.host, chains(test.machine)))
			path := filepath.Join("testdata", name+".args")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// lines writes one option a line, with its value.
func lines(arguments []string) string {
	var b strings.Builder
	for i, argument := range arguments {
		switch {
		case i == 0:
		case strings.HasPrefix(argument, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(argument)
	}
	b.WriteByte('\n')
	return b.String()
}

func TestADeviceMoreMovesNoOther(t *testing.T) {
	m := fullMachine()
	before := addresses(qemu.Args(m, kvmHost(), chains(m)))
	m.Disks = append(m.Disks, qemu.Disk{ID: "late", Path: "/disks/late", Format: qemu.FormatRaw, Medium: qemu.MediumDisk})
	m.SeedPath = ""
	after := addresses(qemu.Args(m, kvmHost(), chains(m)))
	for device, address := range before {
		if device != "dev-seed" && after[device] != address {
			t.Errorf("%s moved from %s to %s", device, address, after[device])
		}
	}
}

// addresses gives each device's bus and place there, by its ID.
func addresses(arguments []string) map[string]string {
	found := map[string]string{}
	for _, argument := range arguments {
		id, address := "", ""
		for part := range strings.SplitSeq(argument, ",") {
			switch key, value, _ := strings.Cut(part, "="); key {
			case "id":
				id = value
			case "bus", "addr", "scsi-id":
				address += part + " "
			}
		}
		if id != "" && address != "" {
			found[id] = address
		}
	}
	return found
}
