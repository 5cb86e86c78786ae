package qemu

import (
	"fmt"
	"net/netip"
	"strings"
)

// Names inside the run folder. QEMU runs with the run folder as its working
// directory and is given these relative names: a unix socket's whole path would
// be limited to 108 bytes.
const (
	qmpSocket    = "qmp.sock"
	agentSocket  = "agent.sock"
	serialSocket = "serial.sock"
	screenSocket = "vnc.sock"
	// incomingSocket is where the target of a migration takes the machine from.
	incomingSocket = "incoming.sock"
)

// seedID is the device ID of the seed's CD-ROM.
const seedID = "seed"

// sandbox lets QEMU neither start programs, nor gain rights, nor change its
// scheduling once it runs.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// Chains is what Layers found, by Disk.ID, and by "seed" for the seed.
type Chains map[string][]Layer

// Args is the command line, without the binary, that makes m on the host. It is
// a pure function: m is valid and has a Type, and chains has each of its disks.
//
// The machine is made paused (-S): it is let go once it is known to be ours.
func Args(m Machine, host Host, chains Chains) []string {
	a := &arguments{}
	a.machine(m, host)
	a.firmware(m, host)
	a.lifecycle()
	a.channels()
	a.buses(m)
	a.disks(m, chains)
	a.network(m)
	return a.list
}

type arguments struct{ list []string }

func (a *arguments) add(option string, parts ...string) {
	a.list = append(a.list, option, strings.Join(parts, ","))
}

func (a *arguments) machine(m Machine, host Host) {
	a.list = append(a.list, "-nodefaults", "-no-user-config")
	a.add("-name", "guest="+m.Name, "debug-threads=on")
	a.add("-uuid", m.ID)
	a.add("-machine", append([]string{m.Type, "vmport=off", "hpet=off", "usb=off"}, m.Firmware.machineOptions()...)...)
	a.add("-accel", accel(m, host.Accelerator)...)
	a.add("-cpu", processor(m, host.Accelerator)...)
	a.add("-smp", fmt.Sprint(m.CPU.Count()), fmt.Sprintf("sockets=%d", m.CPU.Sockets),
		fmt.Sprintf("cores=%d", m.CPU.CoresPerSocket), "threads=1")
	a.add("-m", fmt.Sprintf("%dM", m.MemoryBytes/mebibyte))
	a.add("-rtc", "base=utc")
	a.add("-boot", "strict=on")
	// Suspend would leave the guest where nothing of ours wakes it.
	a.add("-global", "ICH9-LPC.disable_s3=1")
	a.add("-global", "ICH9-LPC.disable_s4=1")
	// Its socket is in the run folder, where nobody but the daemon comes: it asks
	// for no password.
	a.add("-display", "vnc=unix:"+screenSocket, "share=force-shared")
	if host.Sandbox {
		a.add("-sandbox", sandbox)
	}
}

// lifecycle makes QEMU stay, paused, when its guest has ended. A process that
// exited can't be asked why, and the daemon may be down at that moment: this
// way query-status says "shutdown" (the guest powered off) or "guest-panicked"
// for as long as it takes, and a process that is gone without our doing is a
// crash and nothing else.
func (a *arguments) lifecycle() {
	a.list = append(a.list, "-S")
	a.add("-action", "reboot=reset", "shutdown=pause", "panic=pause", "watchdog=reset")
	a.add("-msg", "timestamp=on")
}

// channels are the sockets by which the daemon reaches the process. What the
// guest writes to its serial line while nobody is connected is dropped: a log
// file of QEMU's own has no limit, and the guest decides how much goes there.
func (a *arguments) channels() {
	for _, channel := range []struct{ id, socket string }{
		{"qmp", qmpSocket}, {"serial0", serialSocket}, {"agent", agentSocket},
	} {
		a.add("-chardev", "socket", "id="+channel.id, "path="+channel.socket, "server=on", "wait=off")
	}
	a.add("-mon", "chardev=qmp", "mode=control")
	a.add("-device", "isa-serial", "chardev=serial0")
	a.add("-device", "pvpanic")
}

// videoMebibytes are enough for 1920x1080, and a power of two, as VGA wants.
const videoMebibytes = 16

// spareRootPorts are for interfaces plugged in later; each costs the guest's
// firmware a little time.
const spareRootPorts = 4

// buses sets each device's PCI address: a guest names its interfaces by it, and
// a device more or less must not rename the others. Root port 0 is the network
// interface's, which Linux then calls enp1s0.
func (a *arguments) buses(m Machine) {
	for port := range 1 + spareRootPorts {
		first := ""
		if port == 0 {
			first = ",multifunction=on"
		}
		a.add("-device", "pcie-root-port", fmt.Sprintf("id=port%d", port),
			fmt.Sprintf("chassis=%d", port+1), "bus=pcie.0", fmt.Sprintf("addr=0x1.%d%s", port, first))
	}
	if m.Devices == DevicesVirtio {
		a.add("-device", "virtio-scsi-pci", "id=scsi0", "bus=pcie.0", "addr=0x2")
	}
	a.add("-device", "virtio-serial-pci", "id=vserial0", "bus=pcie.0", "addr=0x3")
	a.add("-device", "virtserialport", "id=agent0", "bus=vserial0.0", "chardev=agent", "name=org.qemu.guest_agent.0")
	if m.Devices == DevicesVirtio {
		a.add("-object", "rng-random", "id=random0", "filename=/dev/urandom")
		a.add("-device", "virtio-rng-pci", "rng=random0", "bus=pcie.0", "addr=0x4")
		// Memory that the guest frees goes back to the host by itself.
		a.add("-device", "virtio-balloon-pci", "id=balloon0", "bus=pcie.0", "addr=0x5",
			"free-page-reporting=on", "deflate-on-oom=on")
	}
	// What each firmware and each guest can draw on.
	a.add("-device", "VGA", "id=video0", fmt.Sprintf("vgamem_mb=%d", videoMebibytes), "bus=pcie.0", "addr=0x7")
	if m.Windows {
		// A pointer that is where the viewer's is: Windows has no driver for
		// virtio's.
		a.add("-device", "qemu-xhci", "id=usb0", "bus=pcie.0", "addr=0x1e")
		a.add("-device", "usb-tablet", "id=tablet0", "bus=usb0.0")
	}
	if m.TPMDir != "" {
		a.add("-chardev", "socket", "id=tpm0", fmt.Sprintf("fd=%d", tpmFD))
		a.add("-tpmdev", "emulator", "id=tpm0", "chardev=tpm0")
		a.add("-device", "tpm-crb", "tpmdev=tpm0")
	}
}

func (a *arguments) network(m Machine) {
	n := m.Network
	switch n.Mode {
	case NetworkNone:
		return
	case NetworkTap:
		a.add("-netdev", "tap", "id=net0", "ifname="+n.Tap, "script=no", "downscript=no")
	case NetworkUser:
		a.add("-netdev", userNetwork(n.User)...)
	}
	// No romfile: a guest boots from its disks or not at all.
	if m.Devices == DevicesVirtio {
		a.add("-device", "virtio-net-pci", "netdev=net0", "id=nic0", "mac="+n.MAC, "bus=port0", "addr=0x0", "romfile=")
		return
	}
	a.add("-device", "e1000", "netdev=net0", "id=nic0", "mac="+n.MAC, "bus=pcie.0", "addr=0x6", "romfile=")
}

func userNetwork(u *UserNetwork) []string {
	parts := []string{
		"user", "id=net0", "ipv6=off", "net=" + u.Subnet.Masked().String(),
		"host=" + u.Gateway.String(), "dns=" + u.resolver().String(), "dhcpstart=" + u.Guest.String(),
	}
	if u.Isolated {
		parts = append(parts, "restrict=on")
	}
	for _, f := range u.Forward {
		to := netip.AddrPortFrom(u.Guest, f.GuestPort)
		parts = append(parts, fmt.Sprintf("hostfwd=tcp:%s-%s", f.Host, to))
	}
	return parts
}

func accel(m Machine, accelerator Accelerator) []string {
	if accelerator == AcceleratorKVM {
		return []string{"kvm"}
	}
	// One translating thread a processor; a single one needs less memory.
	threads := "thread=multi"
	if m.CPU.Count() == 1 {
		threads = "thread=single"
	}
	return []string{"tcg", threads, fmt.Sprintf("tb-size=%d", translationBuffer(m.MemoryBytes))}
}

// translationBuffer is how many MiB TCG may fill with translated code. Left to
// itself QEMU takes a gigabyte, more than most of these guests have themselves;
// an eighth of the guest's memory keeps its working set.
func translationBuffer(memoryBytes int64) int64 {
	return min(max(memoryBytes/8/mebibyte, 32), 256)
}

// TranslationBytes is the most that the accelerator takes for translated code.
func (h Host) TranslationBytes(memoryBytes int64) int64 {
	if h.Accelerator == AcceleratorKVM {
		return 0
	}
	return translationBuffer(memoryBytes) * mebibyte
}

// portableModel is a fixed set of features that TCG emulates well: the second
// level of x86-64, which current distributions ask for. It is an AMD model, so
// that Linux leaves out the page-table isolation that old Intel ones need.
const portableModel = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"

// enlightenments tell Windows that it runs on a hypervisor of a kind that it
// knows (QEMU's documentation, "Hyper-V Enlightenments"). TCG has none.
const enlightenments = "hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-time,hv-synic,hv-stimer," +
	"hv-stimer-direct,hv-frequencies,hv-tlbflush,hv-ipi,hv-reset"

func processor(m Machine, accelerator Accelerator) []string {
	parts := append([]string{cpuModel(m.CPU.Model, accelerator)}, prefixed("+", m.CPU.Features)...)
	if m.CPU.Exact {
		parts = append(parts, "enforce")
	}
	if m.Windows && accelerator == AcceleratorKVM {
		parts = append(parts, enlightenments)
	}
	return parts
}

// cpuModel is the model to run.
func cpuModel(model string, accelerator Accelerator) string {
	switch {
	case model != "" && model != "host":
		return model
	case accelerator == AcceleratorKVM:
		return "host"
	case model == "host":
		return "max" // the emulator's own, as the host's is KVM's
	}
	return portableModel
}

func prefixed(prefix string, words []string) []string {
	var list []string
	for _, word := range words {
		list = append(list, prefix+word)
	}
	return list
}

// escape protects a value in QEMU's comma-separated options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
