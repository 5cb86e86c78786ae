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
			a.add("-device", scsiDevice(d, index).options()...)
			continue
		}
		if controller := index / sataPorts; controller > 0 && index%sataPorts == 0 {
			// The chipset has one controller of its own, "ide".
			a.add("-device", "ich9-ahci", fmt.Sprintf("id=sata%d", controller),
				"bus=pcie.0", fmt.Sprintf("addr=0x%x", 7+controller))
		}
		a.add("-device", sataDevice(d, index)...)
	}
	for _, d := range m.Plugged {
		a.chain(d, chains[d.ID])
		a.add("-device", scsiDevice(d, d.Slot).options()...)
	}
}

func (a *arguments) chain(d Disk, layers []Layer) {
	for _, node := range chainOf(d, layers) {
		a.node(node)
	}
}

func (a *arguments) node(n blockNode) {
	// Strings and booleans always encode.
	encoded, _ := json.Marshal(n)
	a.add("-blockdev", string(encoded))
}

// chainOf opens a disk's files from the bottom up, each with its driver named and
// its backing node given: QEMU never guesses a format, and never follows a name
// in a header.
func chainOf(d Disk, layers []Layer) []blockNode {
	var nodes []blockNode
	backing := nodeOrNull{given: true}
	for depth := len(layers) - 1; depth >= 0; depth-- {
		layer, name := layers[depth], nodeName(d.ID, depth)
		readOnly := depth > 0 || d.readOnly()
		nodes = append(nodes, blockNode{
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
		nodes = append(nodes, format)
		backing = nodeOrNull{given: true, name: name}
	}
	return nodes
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

// property is one of a device, in the words of -device; device_add wants numbers
// as such.
type property struct {
	name  string
	value any // string or int
}

// properties describe a device; the first is its driver.
type properties []property

func (p properties) options() []string {
	parts := []string{fmt.Sprint(p[0].value)}
	for _, one := range p[1:] {
		parts = append(parts, fmt.Sprintf("%s=%v", one.name, one.value))
	}
	return parts
}

// arguments are those of QMP's device_add.
func (p properties) arguments() map[string]any {
	arguments := map[string]any{}
	for _, one := range p {
		arguments[one.name] = one.value
	}
	return arguments
}

// scsiDevice puts the disk at a target: at boot, Linux gives out sda, sdb and so
// on in the order of targets.
func scsiDevice(d Disk, target int) properties {
	driver := "scsi-hd"
	if d.Medium == MediumCDROM {
		driver = "scsi-cd"
	}
	device := properties{
		{"driver", driver}, {"id", deviceID(d.ID)}, {"drive", d.ID}, {"bus", "scsi0.0"}, {"channel", 0},
		{"scsi-id", target}, {"lun", 0},
	}
	if d.Medium == MediumDisk {
		device = append(device, property{"rotation_rate", 1}) // an SSD: guests then trim
	}
	if d.Serial != "" {
		// By itself QEMU takes the serial for this as well, if it is a short one.
		device = append(device, property{"device_id", d.Serial})
	}
	return append(device, d.common(d.Serial)...)
}

func deviceID(disk string) string { return "dev-" + disk }

func sataDevice(d Disk, index int) []string {
	driver, bus := "ide-hd", fmt.Sprintf("ide.%d", index)
	if d.Medium == MediumCDROM {
		driver = "ide-cd"
	}
	if controller := index / sataPorts; controller > 0 {
		bus = fmt.Sprintf("sata%d.%d", controller, index%sataPorts)
	}
	device := properties{{"driver", driver}, {"id", deviceID(d.ID)}, {"drive", d.ID}, {"bus", bus}}
	return append(device, d.common(d.Serial[:min(len(d.Serial), sataSerial)])...).options()
}

// common are the properties of every disk. A write that fails (a full host, as
// a rule) stops the guest, which goes on unharmed once there is space; passed
// on, it would damage the guest's file systems. A read that fails does so again
// after any pause, so the guest is told.
func (d Disk) common(serial string) properties {
	var common properties
	if serial != "" {
		common = append(common, property{"serial", serial})
	}
	if d.BootIndex > 0 {
		common = append(common, property{"bootindex", d.BootIndex})
	}
	return append(common, property{"werror", "stop"}, property{"rerror", "report"})
}
