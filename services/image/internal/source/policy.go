package source

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"

	"orlop.dev/services/image/internal/failure"
)

// AllowOption is how a user lets a private address be a source.
const AllowOption = "--allow-image-source"

// policy decides which addresses may be dialled. It is asked with the address
// itself, after resolving, so that no name can lead around it.
type policy struct {
	allowed []netip.Prefix
}

// special is read only: networks that are not the public Internet and that
// netip's own predicates don't cover (IANA special-purpose registries).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("fec0::/10"),
}

// control is called by net.Dialer with each address before it connects.
func (p policy) control(_, address string, _ syscall.RawConn) error {
	endpoint, err := netip.ParseAddrPort(address)
	if err != nil {
		return failure.Terminalf(ReasonAddressRefused, "the source's address %s can't be judged", address)
	}
	addr := endpoint.Addr().Unmap().WithZone("")
	if isPublic(addr) || slices.ContainsFunc(p.allowed, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return nil
	}
	return failure.Terminalf(ReasonAddressRefused,
		"the source's address %s is not public; %s %s would allow it",
		addr, AllowOption, netip.PrefixFrom(addr, addr.BitLen()))
}

func isPublic(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	if slices.ContainsFunc(special, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return false
	}
	if inner, ok := embedded(addr); ok {
		return isPublic(inner)
	}
	return true
}

// embedded returns the IPv4 address that a translator would reach through addr:
// NAT64 (RFC 6052) has it at the end, 6to4 (RFC 3056) behind its first 16 bits.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case binary.BigEndian.Uint64(b[:]) == 0x0064ff9b<<32 && binary.BigEndian.Uint32(b[8:]) == 0:
		return netip.AddrFrom4([4]byte(b[12:])), true
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
