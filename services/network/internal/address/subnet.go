package address

import "net/netip"

// A Subnet is one CIDR of a pool together with what a guest in it has to know.
//
// The guide gives all of a CIDR to guests but its first and its last address, yet a guest needs a gateway on its own
// link: one beyond it would ask for routes that busybox's udhcpc, for one, doesn't install. So unless a gateway is
// configured, guests are told a link one bit wider than the CIDR. There, the one of the two unusable addresses that
// lies in the middle is an ordinary address, and becomes the gateway: 10.66.10.0/24 is on link 10.66.10.0/23 with
// gateway 10.66.10.255, and 10.66.11.0/24 is on the same link with gateway 10.66.11.0. No address is lost, and each
// DHCP client understands it. The price: a guest asks for the CIDR's twin by ARP rather than by its gateway, which
// then has to answer (proxy ARP) should the twin be reachable at all.
//
// In IPv6 the first address of a subnet is its router's already (subnet-router anycast, RFC 4291 section 2.6.1).
type Subnet struct {
	Prefix  netip.Prefix // the CIDR, as configured
	Link    netip.Prefix // what a guest takes to be its own link: Prefix or wider
	Gateway netip.Addr   // in Link, never given to a guest
}

// Interface is an address with the length of its link: what a guest configures.
func (s Subnet) Interface(address netip.Addr) netip.Prefix {
	return netip.PrefixFrom(address, s.Link.Bits())
}

func (p *Pool) subnet(prefix netip.Prefix, gateway netip.Addr) (Subnet, error) {
	first, last := prefix.Addr(), last(prefix)
	switch {
	case gateway.IsValid():
		return Subnet{Prefix: prefix, Link: prefix, Gateway: gateway}, nil
	case !hasBoundary(prefix):
		return p.surround(prefix)
	case first.Is6():
		return Subnet{Prefix: prefix, Link: prefix, Gateway: first}, nil
	}
	link := netip.PrefixFrom(first, prefix.Bits()-1).Masked()
	if isHost(link, last) {
		return Subnet{Prefix: prefix, Link: link, Gateway: last}, nil
	}
	return Subnet{Prefix: prefix, Link: link, Gateway: first}, nil
}

// surround finds the gateway of a CIDR that is too small to have an unusable address: the nearest address that no
// guest may have.
func (p *Pool) surround(prefix netip.Prefix) (Subnet, error) {
	first, last := prefix.Addr(), last(prefix)
	for length := prefix.Bits() - 1; length >= shortest; length-- {
		link := netip.PrefixFrom(first, length).Masked()
		if !isHost(link, first) || !isHost(link, last) {
			continue
		}
		above, below := last.Next(), first.Prev()
		for isHost(link, above) || isHost(link, below) {
			if isHost(link, above) && !p.offers(above) {
				return Subnet{Prefix: prefix, Link: link, Gateway: above}, nil
			}
			if isHost(link, below) && !p.offers(below) {
				return Subnet{Prefix: prefix, Link: link, Gateway: below}, nil
			}
			above, below = above.Next(), below.Prev()
		}
	}
	return Subnet{}, &CIDRError{CIDR: prefix.String(), Rule: "has no address beside it that could be its gateway"}
}

// offers says whether some CIDR gives the address to guests. It is asked while subnets are still being found.
func (p *Pool) offers(address netip.Addr) bool {
	space := p.spaceOf(address)
	for i, block := range space.blocks {
		end := space.extent
		if i+1 < len(space.blocks) {
			end = space.blocks[i+1].start
		}
		final := add(block.first, end-block.start-1)
		if !address.Less(block.first) && !final.Less(address) && address != block.skip {
			return true
		}
	}
	return false
}

// hasBoundary says whether the first and the last address of a CIDR are kept from guests.
func hasBoundary(prefix netip.Prefix) bool { return prefix.Addr().BitLen()-prefix.Bits() >= 2 }

func isBoundary(prefix netip.Prefix, address netip.Addr) bool {
	return hasBoundary(prefix) && (address == prefix.Addr() || address == last(prefix))
}

// isHost says whether an interface on the link may have the address.
func isHost(link netip.Prefix, address netip.Addr) bool {
	return link.Contains(address) && address != link.Addr() && address != last(link) && ordinary(address)
}

// ordinary says whether an address can be that of one interface, routed as any other.
func ordinary(address netip.Addr) bool {
	if address.Is4() {
		leading := address.As4()[0]
		return leading != 0 && leading != 127 && leading < 224 && !address.IsLinkLocalUnicast()
	}
	return address.IsGlobalUnicast()
}

func last(prefix netip.Prefix) netip.Addr {
	raw := prefix.Masked().Addr().AsSlice()
	for bit := prefix.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	address, _ := netip.AddrFromSlice(raw)
	return address
}
