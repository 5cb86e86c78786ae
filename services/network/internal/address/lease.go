package address

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ErrLeaseName says that a name isn't one that LeaseName gives.
var ErrLeaseName = errors.New("not the name of an address lease")

const leasePrefix = "ip-"

// LeaseName is the name of the lease of an address, a DNS label: ip-10-66-10-14 in IPv4 (guide, "IP addresses of virtual
// machines"). In IPv6, which the guide doesn't name, it is the eight groups in full, as "::" has no place in a label:
// ip-fd00-0-0-0-0-0-0-14. Four groups are IPv4 and eight are IPv6, so names never collide.
func LeaseName(address netip.Addr) string {
	if address.Is4() {
		return leasePrefix + strings.ReplaceAll(address.String(), ".", "-")
	}
	raw := address.As16()
	groups := make([]string, 8)
	for i := range groups {
		groups[i] = strconv.FormatUint(uint64(binary.BigEndian.Uint16(raw[2*i:])), 16)
	}
	return leasePrefix + strings.Join(groups, "-")
}

// ParseLeaseName returns the address whose LeaseName this is. Any other spelling of the same address (leading zeros,
// capitals) is refused with ErrLeaseName, as two names for one address would be two leases.
func ParseLeaseName(name string) (netip.Addr, error) {
	groups, found := strings.CutPrefix(name, leasePrefix)
	separator := ":"
	if strings.Count(groups, "-") == 3 {
		separator = "."
	}
	address, err := netip.ParseAddr(strings.ReplaceAll(groups, "-", separator))
	if !found || err != nil || LeaseName(address) != name {
		return netip.Addr{}, fmt.Errorf("%q: %w", name, ErrLeaseName)
	}
	return address, nil
}
