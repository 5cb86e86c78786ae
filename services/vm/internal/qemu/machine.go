package qemu

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// ErrInvalid is a Machine that can't be turned into a command line. It is the
// caller's mistake, and stays one.
var ErrInvalid = errors.New("invalid machine")

// Machine is what one guest is made of. It holds no secrets: it is written to
// the run folder and shows in the process list.
type Machine struct {
	// ID names the machine for good, and the guest sees it as its system UUID.
	// Lower-case hexadecimal in the form 8-4-4-4-12.
	ID string
	// Name is for people who look at the process list.
	Name string
	CPU  CPU
	// MemoryBytes is a multiple of 1 MiB.
	MemoryBytes int64
	Firmware    Firmware
	// VariablesPath is the file in which the firmware keeps its variables, made at
	// the first start; not for BIOS.
	VariablesPath string
	// TPMDir is the folder in which the machine's TPM keeps its state, made at the
	// first start; empty for a machine without a TPM.
	TPMDir string
	// Windows gives the guest what Windows wants of its machine.
	Windows bool
	Devices Devices
	// Disks in the guest's order: the first disk that is not a CD-ROM is sda.
	Disks []Disk
	// Plugged are disks that came while the machine ran, or that an earlier run
	// had: each with its Slot.
	Plugged []Disk
	// SeedPath is an ISO image with the guest's first configuration, attached
	// as the last CD-ROM; empty for none.
	SeedPath string
	Network  Network
	// Type is QEMU's machine type, such as "pc-q35-10.0". Start sets it when
	// empty, to what this host's QEMU calls current.
	Type string
}

// CPU is the guest's processors: Sockets × CoresPerSocket of them.
type CPU struct {
	// Model is QEMU's name, such as "Nehalem"; "host" for all that the accelerator
	// gives, empty for what of it serves well.
	Model string
	// Features are added to the model, such as "vmx".
	Features []string
	// Exact refuses to start with less than that: by itself QEMU leaves out what
	// the accelerator lacks.
	Exact bool
	// MilliCPU is the most processor time that the machine may take, in thousandths
	// of a processor; 0 for as much as it has processors.
	MilliCPU       int64
	Sockets        int
	CoresPerSocket int
}

// Count is the number of virtual processors.
func (c CPU) Count() int { return c.Sockets * c.CoresPerSocket }

// Firmware is what the guest boots with.
type Firmware string

const (
	// FirmwareBIOS is SeaBIOS.
	FirmwareBIOS Firmware = "BIOS"
	// FirmwareEFI is OVMF.
	FirmwareEFI Firmware = "EFI"
	// FirmwareSecureBoot is OVMF that boots what Microsoft's keys have signed.
	FirmwareSecureBoot Firmware = "EFIWithSecureBoot"
)

// Devices is the kind of disk and network devices that the guest sees.
type Devices string

const (
	// DevicesVirtio is virtio-scsi and virtio-net, for guests that know them.
	DevicesVirtio Devices = "Virtio"
	// DevicesEmulated is SATA and e1000, which every guest knows.
	DevicesEmulated Devices = "Emulated"
)

// Format is the format of a disk's file.
type Format string

// The formats that a guest may run on. The caller names one; it is never
// guessed from content that a guest or a stranger wrote.
const (
	FormatQCOW2 Format = "qcow2"
	FormatRaw   Format = "raw"
	FormatVMDK  Format = "vmdk"
	FormatVDI   Format = "vdi"
)

// Medium is what the guest takes a disk for.
type Medium string

const (
	// MediumDisk is a hard disk.
	MediumDisk Medium = "Disk"
	// MediumCDROM is a CD-ROM, which is always read-only.
	MediumCDROM Medium = "CDROM"
)

// Disk is one block device.
type Disk struct {
	// ID names the device for later commands, and stays the same for the same
	// disk: a letter, then up to 15 letters, digits or '-'. "seed" is taken.
	ID string
	// Serial is what the guest finds under /dev/disk/by-id: up to 36 letters,
	// digits, '-' or '_' (an emulated disk shows the first 20). May be empty.
	Serial   string
	Path     string // absolute
	Format   Format
	Medium   Medium
	ReadOnly bool
	// BootIndex is 1 for the device to boot from first; 0 is never.
	BootIndex int
	// Label is the caller's own name of the device, up to 128 bytes. It is kept,
	// and told to nobody.
	Label string
	// Slot is the place of one of Machine.Plugged (NextSlot finds a free one), and
	// 0 for one of Machine.Disks, whose place is its index there.
	Slot int
}

// NetworkMode is how the guest's one interface is joined to the world.
type NetworkMode string

const (
	// NetworkNone gives the guest no interface.
	NetworkNone NetworkMode = "None"
	// NetworkTap joins it to a tap device that the caller made.
	NetworkTap NetworkMode = "Tap"
	// NetworkUser joins it to QEMU's user-mode stack, which needs no rights:
	// the guest gets out, and is reached through forwarded ports only.
	NetworkUser NetworkMode = "User"
)

// Network is the guest's one network interface.
type Network struct {
	Mode NetworkMode
	MAC  string // "52:54:00:12:34:56"
	// Namespace is the network namespace that QEMU runs in: a name under
	// /run/netns, or a path; empty for the daemon's own.
	Namespace string
	Tap       string       // NetworkTap: the interface's name inside Namespace
	User      *UserNetwork // NetworkUser
}

// UserNetwork is the subnet that QEMU plays for one guest (IPv4).
type UserNetwork struct {
	Subnet  netip.Prefix
	Gateway netip.Addr // QEMU's own address in it
	DNS     netip.Addr // QEMU's resolver in it, if it matters; not Gateway
	Guest   netip.Addr // what QEMU's DHCP gives the guest
	// Isolated keeps what the guest sends inside: only Forward leads to it.
	Isolated bool
	Forward  []Forward
}

// Forward is one TCP port of the host that leads into the guest.
type Forward struct {
	Host      netip.AddrPort
	GuestPort uint16
}

const (
	mebibyte = 1 << 20
	maxDisks = 64
	maxCPUs  = 248
	maxLabel = 128
)

var (
	idPattern      = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	namePattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$`)
	wordPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	diskPattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
	serialPattern  = regexp.MustCompile(`^[A-Za-z0-9_-]{0,36}$`)
	ifacePattern   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
	nsNamePattern  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)
	firmwares      = []Firmware{FirmwareBIOS, FirmwareEFI, FirmwareSecureBoot}
	formats        = []Format{FormatQCOW2, FormatRaw, FormatVMDK, FormatVDI}
	writtenFormats = []Format{FormatQCOW2, FormatRaw}
)

// Validate tells what makes no sense, as an error that wraps ErrInvalid. The
// patterns are also what keeps a value from adding options to the command line.
func (m Machine) Validate() error {
	switch {
	case !idPattern.MatchString(m.ID):
		return invalid("ID %q: want a UUID in lower case", m.ID)
	case !namePattern.MatchString(m.Name):
		return invalid("name %q: want letters, digits, '.', '_', '/' or '-'", m.Name)
	case m.Type != "" && !wordPattern.MatchString(m.Type):
		return invalid("type %q: want letters, digits, '.', '_' or '-'", m.Type)
	case m.MemoryBytes <= 0 || m.MemoryBytes%mebibyte != 0:
		return invalid("memory %d bytes: want a multiple of 1 MiB", m.MemoryBytes)
	case m.TPMDir != "" && (!filepath.IsAbs(m.TPMDir) || strings.Contains(m.TPMDir, ",")):
		return invalid("TPM %q: want an absolute path without commas", m.TPMDir)
	case m.Devices != DevicesVirtio && m.Devices != DevicesEmulated:
		return invalid("devices %q: want %q or %q", m.Devices, DevicesVirtio, DevicesEmulated)
	case m.SeedPath != "" && !filepath.IsAbs(m.SeedPath):
		return invalid("seed %q: want an absolute path", m.SeedPath)
	}
	return errors.Join(m.validateFirmware(), m.CPU.validate(), m.validateDisks(), m.Network.validate())
}

func (m Machine) validateFirmware() error {
	switch {
	case !slices.Contains(firmwares, m.Firmware):
		return invalid("firmware %q: want one of %q", m.Firmware, firmwares)
	case m.Firmware != FirmwareBIOS && !filepath.IsAbs(m.VariablesPath):
		return invalid("firmware's variables %q: want an absolute path", m.VariablesPath)
	}
	return nil
}

func (c CPU) validate() error {
	if c.Sockets < 1 || c.CoresPerSocket < 1 || c.Count() > maxCPUs {
		return invalid("%d sockets of %d cores: want 1 to %d in all", c.Sockets, c.CoresPerSocket, maxCPUs)
	}
	for _, word := range append([]string{c.Model}, c.Features...) {
		if word != "" && !wordPattern.MatchString(word) {
			return invalid("CPU model or feature %q: want letters, digits, '.', '_' or '-'", word)
		}
	}
	return nil
}

func (m Machine) validateDisks() error {
	if n := len(m.Disks) + len(m.Plugged); n > maxDisks {
		return invalid("%d disks: want %d at most", n, maxDisks)
	}
	seen, slots := map[string]bool{seedID: true}, map[int]bool{}
	for _, d := range slices.Concat(m.Disks, m.Plugged) {
		if err := d.validate(); err != nil {
			return err
		}
		if seen[d.ID] {
			return invalid("disk %q: the ID is taken", d.ID)
		}
		seen[d.ID] = true
	}
	for _, d := range m.Plugged {
		if m.Devices != DevicesVirtio {
			return invalid("disk %s: emulated disks can't be plugged in", d.ID)
		}
		if first := firstSlot(d.Medium); d.Slot < first || d.Slot >= first+slotsOfMedium || slots[d.Slot] {
			return invalid("disk %s: slot %d is taken, or not one for such a medium", d.ID, d.Slot)
		}
		slots[d.Slot] = true
	}
	return nil
}

func (d Disk) validate() error {
	switch {
	case !diskPattern.MatchString(d.ID):
		return invalid("disk %q: want an ID of a letter, then letters, digits or '-', 16 in all", d.ID)
	case !serialPattern.MatchString(d.Serial):
		return invalid("disk %s: serial %q: want letters, digits, '-' or '_', 36 in all", d.ID, d.Serial)
	case !filepath.IsAbs(d.Path):
		return invalid("disk %s: %q: want an absolute path", d.ID, d.Path)
	case !slices.Contains(formats, d.Format):
		return invalid("disk %s: format %q: want one of %q", d.ID, d.Format, formats)
	case d.Medium != MediumDisk && d.Medium != MediumCDROM:
		return invalid("disk %s: medium %q: want %q or %q", d.ID, d.Medium, MediumDisk, MediumCDROM)
	case d.Medium == MediumDisk && !d.ReadOnly && !slices.Contains(writtenFormats, d.Format):
		return invalid("disk %s: format %q: want one of %q to write to", d.ID, d.Format, writtenFormats)
	case len(d.Label) > maxLabel:
		return invalid("disk %s: a label of %d bytes: want %d at most", d.ID, len(d.Label), maxLabel)
	case d.BootIndex < 0:
		return invalid("disk %s: boot index %d: want 0 or more", d.ID, d.BootIndex)
	}
	return nil
}

func (n Network) validate() error {
	if n.Namespace != "" && !filepath.IsAbs(n.Namespace) && !nsNamePattern.MatchString(n.Namespace) {
		return invalid("network namespace %q: want a name or an absolute path", n.Namespace)
	}
	if n.Mode == NetworkNone {
		return nil
	}
	if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac.String() != n.MAC {
		return invalid("MAC address %q: want six lower-case octets with ':'", n.MAC)
	}
	switch n.Mode {
	case NetworkTap:
		if !ifacePattern.MatchString(n.Tap) {
			return invalid("tap %q: want the name of an interface", n.Tap)
		}
		return nil
	case NetworkUser:
		return n.User.validate()
	default:
		return invalid("network mode %q: want %q, %q or %q", n.Mode, NetworkNone, NetworkTap, NetworkUser)
	}
}

func (u *UserNetwork) validate() error {
	if u == nil || !u.Subnet.IsValid() || !u.Subnet.Addr().Is4() {
		return invalid("user network: want an IPv4 subnet")
	}
	inside := []netip.Addr{u.Gateway, u.Guest, u.resolver()}
	for i, address := range inside {
		if !u.Subnet.Contains(address) || slices.Contains(inside[:i], address) {
			return invalid("user network: want different addresses of gateway, guest and resolver in %s", u.Subnet)
		}
	}
	for _, f := range u.Forward {
		if !f.Host.IsValid() || !f.Host.Addr().Is4() || f.GuestPort == 0 {
			return invalid("user network: forward %s to port %d: want an IPv4 address and two ports", f.Host, f.GuestPort)
		}
	}
	return nil
}

// resolver is DNS, or some address that nobody else has: left to itself, QEMU
// might take the guest's.
func (u *UserNetwork) resolver() netip.Addr {
	if u.DNS.IsValid() {
		return u.DNS
	}
	address := u.Subnet.Masked().Addr().Next()
	for address == u.Gateway || address == u.Guest {
		address = address.Next()
	}
	return address
}

func invalid(format string, values ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, values...))
}
