package fabric

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The bridge's neighbor table is filled from the attachments rather than by ARP. The host then sends what is meant for an
// address to the guest that has it, whatever other guests claim, and DHCP reaches a guest that has no address yet.

func neighbor(bridge netlink.Link, address netip.Addr) *netlink.Neigh {
	family := netlink.FAMILY_V4
	if address.Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, Family: family, IP: address.AsSlice(), State: netlink.NUD_PERMANENT,
	}
}

func introduce(bridge netlink.Link, a Attachment) error {
	entry := neighbor(bridge, a.Address)
	entry.HardwareAddr = a.MAC
	return netlink.NeighSet(entry)
}

func forget(bridge netlink.Link, address netip.Addr) error {
	err := netlink.NeighDel(neighbor(bridge, address))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// introduceAll makes the table say what the attachments say, and no more.
func introduceAll(bridge netlink.Link, attachments []Attachment) error {
	wanted := map[netip.Addr]bool{}
	for _, a := range attachments {
		wanted[a.Address] = true
		if err := introduce(bridge, a); err != nil {
			return err
		}
	}
	present, err := dump(func() ([]netlink.Neigh, error) {
		return netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_ALL)
	})
	if err != nil {
		return err
	}
	for _, entry := range present {
		address, _ := netip.AddrFromSlice(entry.IP)
		address = address.Unmap()
		if entry.State&netlink.NUD_PERMANENT == 0 || wanted[address] || address.IsMulticast() {
			continue
		}
		if err := forget(bridge, address); err != nil {
			return err
		}
	}
	return nil
}
