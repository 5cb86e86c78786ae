package local

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/services/vm/internal/cloudinit"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/sysprep"
)

// machineOf is an instance in QEMU's words.
func machineOf(instance machine.Instance, seed string) (qemu.Machine, error) {
	network, err := networkOf(instance.Port)
	if err != nil {
		return qemu.Machine{}, err
	}
	devices := qemu.DevicesEmulated
	if instance.Paravirtualized {
		devices = qemu.DevicesVirtio
	}
	m := qemu.Machine{
		ID: instance.UID, Name: instance.Namespace + "/" + instance.Name,
		CPU: qemu.CPU{
			Model: instance.CPUModel, Features: instance.CPUFeatures, Exact: instance.CPUExact, MilliCPU: instance.MilliCPU,
			Sockets: int(instance.Topology.GetSockets()), CoresPerSocket: int(instance.Topology.GetCoresPerSocket()),
		},
		MemoryBytes: instance.MemoryBytes, Devices: devices,
		SeedPath: seed, Network: network,
	}
	for i, device := range instance.Devices {
		m.Disks = append(m.Disks, diskOf(device, i+1))
	}
	for _, device := range instance.Plugged {
		disk := diskOf(device, 0)
		disk.Slot = qemu.NextSlot(m.Plugged, disk.Medium)
		m.Plugged = append(m.Plugged, disk)
	}
	return m, nil
}

// nameOf is a device's serial, and, made into one, its ID in QEMU.
func nameOf(device string) (serial, id string) {
	sum := sha256.Sum256([]byte(device))
	serial = hex.EncodeToString(sum[:10])
	return serial, "d" + serial[:12]
}

func diskOf(device machine.Device, bootIndex int) qemu.Disk {
	name, id := nameOf(device.ID)
	disk := qemu.Disk{
		ID: id, Serial: name, Path: device.Path, Format: qemu.Format(device.Format),
		Medium: qemu.MediumDisk, ReadOnly: device.ReadOnly, BootIndex: bootIndex, Label: device.ID,
	}
	if device.CDROM {
		disk.Medium = qemu.MediumCDROM
	}
	return disk
}

func networkOf(port *networkv1.Port) (qemu.Network, error) {
	network := qemu.Network{MAC: port.GetMacAddress()}
	if port.GetMode() == networkv1.PortMode_Tap {
		network.Mode, network.Tap, network.Namespace = qemu.NetworkTap, port.GetTap(), port.GetNetworkNamespace()
		return network, nil
	}
	user, err := userNetworkOf(port)
	network.Mode, network.User = qemu.NetworkUser, user
	return network, err
}

func userNetworkOf(port *networkv1.Port) (*qemu.UserNetwork, error) {
	prefix, err := netip.ParsePrefix(port.GetAddress())
	if err != nil {
		return nil, fmt.Errorf("address of the port: %w", err)
	}
	user := &qemu.UserNetwork{Subnet: prefix.Masked(), Guest: prefix.Addr(), Isolated: true}
	if user.Gateway, err = netip.ParseAddr(port.GetGateway()); err != nil {
		return nil, fmt.Errorf("gateway of the port: %w", err)
	}
	for _, forwarded := range port.GetForwardedPorts() {
		host, err := netip.ParseAddrPort(forwarded.GetHost())
		if err != nil {
			return nil, fmt.Errorf("forwarded port: %w", err)
		}
		user.Forward = append(user.Forward, qemu.Forward{Host: host, GuestPort: uint16(forwarded.GetGuestPort())})
	}
	return user, nil
}

func (e *Engine) seedPath(uid string) string { return filepath.Join(e.seeds, uid+".iso") }

// writeSeed writes what cloud-init or Windows reads, and returns its path; none
// where the VM has no provisioning.
func (e *Engine) writeSeed(instance machine.Instance) (string, error) {
	path, given := e.seedPath(instance.UID), instance.Provisioning
	switch {
	case given.Unattend != nil || given.Autounattend != nil:
		return path, sysprep.Write(path, sysprep.Answers{Unattend: given.Unattend, Autounattend: given.Autounattend})
	case given.UserData == nil:
		return "", nil
	}
	card, err := interfaceOf(instance.Port)
	if err != nil {
		return "", err
	}
	seed := cloudinit.Seed{
		InstanceID: instance.UID, LocalHostname: instance.Name, UserData: given.UserData, Network: []cloudinit.Interface{card},
	}
	return path, cloudinit.Write(path, seed)
}

// interfaceOf is the guest's interface. An IPv4 address comes by DHCP, so that it
// is right at every boot and not at the first alone; nothing tells an IPv6 one but
// the seed.
func interfaceOf(port *networkv1.Port) (cloudinit.Interface, error) {
	mac, err := net.ParseMAC(port.GetMacAddress())
	if err != nil {
		return cloudinit.Interface{}, fmt.Errorf("MAC address of the port: %w", err)
	}
	address, err := netip.ParsePrefix(port.GetAddress())
	if err != nil || address.Addr().Is4() {
		return cloudinit.Interface{MAC: mac, DHCP4: true}, nil //nolint:nilerr // A port without an address asks for one.
	}
	card := cloudinit.Interface{MAC: mac, Addresses: []netip.Prefix{address}, MTU: int(port.GetMtu())}
	if card.Gateway, err = netip.ParseAddr(port.GetGateway()); err != nil {
		return card, fmt.Errorf("gateway of the port: %w", err)
	}
	for _, text := range port.GetNameServers() {
		server, err := netip.ParseAddr(text)
		if err != nil {
			return card, fmt.Errorf("DNS server of the port: %w", err)
		}
		card.Nameservers = append(card.Nameservers, server)
	}
	return card, nil
}
