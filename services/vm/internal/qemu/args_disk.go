package qemu

import (
	"encoding/json"
	"fmt"
)

// sataPorts is how many disks one AHCI controller takes.
const sataPorts = 6

// sataSerial is how much of a serial fits into an ATA identity, in bytes.
const sataSerial = 20

// blockNode is QEMU's BlockdevOptions, as far as used here. Given as JSON, no
// path can be taken for an option.
type blockNode struct {
	Driver       string     `json:"driver"`
	NodeName     string     `json:"node-name"`
	Filename     string     `json:"filename,omitempty"`
	File         string     `json:"file,omitempty"`
	Backing      nodeOrNull `json:"backing,omitzero"`
	ReadOnly     bool       `json:"read-only"`
	AIO          string     `json:"aio,omitempty"`
	Cache        cache      `json:"cache"`
	Discard      string     `json:"discard"`
	DetectZeroes string     `json:"detect-zeroes,omitempty"`
}

type cache struct {
	Direct bool `json:"direct"`
}

// nodeOrNull is a node's name, "null" for none, or (zero) left out.
type nodeOrNull struct {
	given bool
	name  string
}

func (n nodeOrNull) IsZero() bool { return !n.given }

func (n nodeOrNull) MarshalJSON() ([]byte, error) {
	if n.name == "" {
		return []byte("null"), nil
	}
	return json.Marshal(n.name)
}

func (a *arguments) disks(m Machine, chains Chains) {
	disks := m.Disks
	if m.SeedPath != "" {
		disks = append(disks[:len(disks):len(disks)], seedDisk(m.SeedPath))
	}
	for index, d := range disks {
		a.chain(d, chains[d.ID])
		if m.Devices == DevicesVirtio {
			a.add("-device", scsiDevice(d, index)...)
			continue
		}
		if controller := index / sataPorts; controller > 0 && index%sataPorts == 0 {
			// The chipset has one controller of its own, "ide".
			a.add("-device", "ich9-ahci", fmt.Sprintf("id=sata%d", controller),
				"bus=pcie.0", fmt.Sprintf("addr=0x%x", 7+controller))
		}
		a.add("-device", sataDevice(d, index)...)
	}
}

// chain opens a disk's files from the bottom up, each with its driver named and
// its backing node given: QEMU never guesses a format, and never follows a name
// in a header.
func (a *arguments) chain(d Disk, layers []Layer) {
	backing := nodeOrNull{given: true}
	for depth := len(layers) - 1; depth >= 0; depth-- {
		layer, name := layers[depth], nodeName(d.ID, depth)
		readOnly := depth > 0 || d.readOnly()
		a.node(blockNode{
			Driver: "file", NodeName: name + "-file", Filename: layer.Path, ReadOnly: readOnly,
			// Linux's native AIO is faster still, but a host has some sixty
			// guests' worth of it in all; threads never run out.
			AIO: "threads", Cache: cache{layer.Direct}, Discard: "unmap",
		})
		format := blockNode{
			Driver: string(layer.Format), NodeName: name, File: name + "-file", ReadOnly: readOnly,
			Cache: cache{layer.Direct}, Discard: "unmap",
		}
		if layer.Format == FormatQCOW2 {
			format.Backing = backing
		}
		if !readOnly {
			// Zeros that a guest writes take no space.
			format.DetectZeroes = "unmap"
		}
		a.node(format)
		backing = nodeOrNull{given: true, name: name}
	}
}

func (a *arguments) node(n blockNode) {
	// Strings and booleans always encode.
	encoded, _ := json.Marshal(n)
	a.add("-blockdev", string(encoded))
}

// nodeName names the top layer as the disk itself, so that later block jobs
// find it by the disk's ID.
func nodeName(id string, depth int) string {
	if depth == 0 {
		return id
	}
	return fmt.Sprintf("%s-b%d", id, depth)
}

func (d Disk) readOnly() bool { return d.ReadOnly || d.Medium == MediumCDROM }

func seedDisk(path string) Disk {
	return Disk{ID: seedID, Path: path, Format: FormatRaw, Medium: MediumCDROM}
}

// scsiDevice puts the disk at the target of its index: Linux gives out sda, sdb
// and so on in this order.
func scsiDevice(d Disk, index int) []string {
	driver := "scsi-hd"
	if d.Medium == MediumCDROM {
		driver = "scsi-cd"
	}
	parts := []string{driver, "id=dev-" + d.ID, "drive=" + d.ID, "bus=scsi0.0", "channel=0",
		fmt.Sprintf("scsi-id=%d", index), "lun=0"}
	if d.Medium == MediumDisk {
		parts = append(parts, "rotation_rate=1") // an SSD: guests then trim
	}
	if d.Serial != "" {
		// By itself QEMU takes the serial for this as well, if it is a short one.
		parts = append(parts, "device_id="+d.Serial)
	}
	return append(parts, d.common(d.Serial)...)
}

func sataDevice(d Disk, index int) []string {
	driver, bus := "ide-hd", fmt.Sprintf("ide.%d", index)
	if d.Medium == MediumCDROM {
		driver = "ide-cd"
	}
	if controller := index / sataPorts; controller > 0 {
		bus = fmt.Sprintf("sata%d.%d", controller, index%sataPorts)
	}
	parts := []string{driver, "id=dev-" + d.ID, "drive=" + d.ID, "bus=" + bus}
	return append(parts, d.common(d.Serial[:min(len(d.Serial), sataSerial)])...)
}

// common are the properties of every disk. A write that fails (a full host, as
// a rule) stops the guest, which goes on unharmed once there is space; passed
// on, it would damage the guest's file systems. A read that fails does so again
// after any pause, so the guest is told.
func (d Disk) common(serial string) []string {
	var parts []string
	if serial != "" {
		parts = append(parts, "serial="+serial)
	}
	if d.BootIndex > 0 {
		parts = append(parts, fmt.Sprintf("bootindex=%d", d.BootIndex))
	}
	return append(parts, "werror=stop", "rerror=report")
}
