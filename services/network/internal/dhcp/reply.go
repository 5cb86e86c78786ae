package dhcp

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// answer returns the reply to a request of the lease's guest, or nil where RFC 2131 section 4.3 wants silence.
func answer(request *dhcpv4.DHCPv4, lease Lease) (*dhcpv4.DHCPv4, error) {
	if request.OpCode != dhcpv4.OpcodeBootRequest || !isZero(request.GatewayIPAddr) || isForOther(request, lease) {
		return nil, nil // Relays have no place on a bridge of guests.
	}
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return grant(request, lease, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		if !asksFor(request, lease.Address.Addr()) {
			return refuse(request, lease)
		}
		return grant(request, lease, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		return describe(request, lease, dhcpv4.MessageTypeAck)
	}
	return nil, nil // Released or declined: the lease isn't the guest's to give up.
}

// grant tells the guest its address and all that goes with it.
func grant(request *dhcpv4.DHCPv4, lease Lease, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	return describe(request, lease, kind,
		dhcpv4.WithYourIP(lease.Address.Addr().AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(lease.Duration)))
}

func describe(request *dhcpv4.DHCPv4, lease Lease, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	gateway := net.IP(lease.Gateway.AsSlice())
	modifiers := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOptionCopied(request, dhcpv4.OptionClientIdentifier), // RFC 6842
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
		dhcpv4.WithOption(dhcpv4.OptRouter(gateway)),
		dhcpv4.WithNetmask(net.CIDRMask(lease.Address.Bits(), 32)),
		dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(lease.MTU)}),
	}
	if lease.Hostname != "" {
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptHostName(lease.Hostname)))
	}
	if len(lease.DNS) > 0 {
		modifiers = append(modifiers, dhcpv4.WithOption(dhcpv4.OptDNS(octets(lease.DNS)...)))
	}
	return dhcpv4.NewReplyFromRequest(request, append(modifiers, more...)...)
}

// refuse tells a guest that remembers another address to ask anew.
func refuse(request *dhcpv4.DHCPv4, lease Lease) (*dhcpv4.DHCPv4, error) {
	return dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithOptionCopied(request, dhcpv4.OptionClientIdentifier),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(lease.Gateway.AsSlice())))
}

// destination follows RFC 2131 section 4.1. An address that the guest doesn't have yet can be written to all the same,
// as long as the sender's neighbour table knows its MAC.
func destination(request, reply *dhcpv4.DHCPv4) net.Addr {
	to := net.IPv4bcast
	switch {
	case reply.MessageType() == dhcpv4.MessageTypeNak:
	case !isZero(request.ClientIPAddr):
		to = request.ClientIPAddr
	case !request.IsBroadcast():
		to = reply.YourIPAddr
	}
	return &net.UDPAddr{IP: to, Port: dhcpv4.ClientPort}
}

// isForOther says whether a request names a server, and not this one.
func isForOther(request *dhcpv4.DHCPv4, lease Lease) bool {
	server := request.ServerIdentifier()
	return !isZero(server) && !server.Equal(lease.Gateway.AsSlice())
}

// asksFor says whether the address that the guest names, as requested (option 50) or as its own, is the given one.
func asksFor(request *dhcpv4.DHCPv4, address netip.Addr) bool {
	wanted := request.RequestedIPAddress()
	if isZero(wanted) {
		wanted = request.ClientIPAddr
	}
	return wanted.Equal(address.AsSlice())
}

func isZero(address net.IP) bool { return len(address) == 0 || address.IsUnspecified() }

func octets(addresses []netip.Addr) []net.IP {
	out := make([]net.IP, len(addresses))
	for i, address := range addresses {
		out[i] = address.AsSlice()
	}
	return out
}
