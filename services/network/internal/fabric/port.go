package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Mode is how guests are connected to this machine.
type Mode string

// The modes.
const (
	Tap  Mode = "Tap"  // a tap on a bridge: guests reach each other, and this machine reaches them by their address
	User Mode = "User" // QEMU's own network stack: each guest is alone, reached through forwarded ports
)

// A Port is how one guest is plugged in: what its network card is told and what QEMU opens.
type Port struct {
	ID       string
	Mode     Mode
	MAC      net.HardwareAddr
	Address  netip.Prefix // with the length of the guest's link: what a static configuration says
	Gateway  netip.Addr
	Network  netip.Prefix // the guest's link
	DNS      []netip.Addr // none: there is nobody to ask
	Hostname string
	MTU      int // bytes

	Tap       string // device, in Mode Tap
	Namespace string // file of the network namespace where the tap is; empty: the host's

	Forwards []Forward // in Mode User
}

// A Forward is a TCP port of this machine's loopback address that leads to a port of the guest.
type Forward struct {
	Host  netip.AddrPort
	Guest uint16
}

// Netdev is the value of QEMU's -netdev option for the port. In Mode Tap, QEMU has to be started in the port's network
// namespace. In Mode User the guest gets its address from QEMU's own DHCP server, and nothing leaves the machine.
func (p Port) Netdev(id string) string {
	if p.Mode == Tap {
		return fmt.Sprintf("tap,id=%s,ifname=%s,script=no,downscript=no", id, p.Tap)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "user,id=%s,ipv6=off,restrict=on,net=%s,dhcpstart=%s,host=%s,dns=%s",
		id, p.Network, p.Address.Addr(), p.Gateway, p.spare())
	for _, forward := range p.Forwards {
		fmt.Fprintf(&b, ",hostfwd=tcp:%s:%d-%s:%d",
			forward.Host.Addr(), forward.Host.Port(), p.Address.Addr(), forward.Guest)
	}
	return b.String()
}

// spare is an address on the link beside the guest's and the gateway's. QEMU wants one for a name server, which restrict
// keeps silent; the one of its own choice might be the guest's.
func (p Port) spare() netip.Addr {
	address := p.Network.Masked().Addr()
	for address == p.Gateway || address == p.Address.Addr() || address == p.Network.Masked().Addr() {
		address = address.Next()
	}
	if p.Network.Contains(address) {
		return address
	}
	return p.Network.Masked().Addr()
}
