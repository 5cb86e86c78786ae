package address

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// ErrMAC says that a text isn't the address of one Ethernet card.
var ErrMAC = errors.New("not the address of one Ethernet card")

const macLeasePrefix = "mac-"

// MAC is the address of a guest's network card.
type MAC [6]byte

// ParseMAC reads six pairs of hexadecimal digits with colons or dashes between them.
func ParseMAC(text string) (MAC, error) {
	raw, err := net.ParseMAC(text)
	if err != nil || len(raw) != len(MAC{}) {
		return MAC{}, fmt.Errorf("%q: %w", text, ErrMAC)
	}
	return MAC(raw), nil
}

// DeriveMAC is the address that a seed gets at first, and after each attempt that found it taken: 46 bits of a SHA-256
// hash, as a locally administered unicast address (IEEE 802, second least significant bit of the first byte set, least
// not). A seed has the same addresses on each machine; two of 10,000 seeds share their first by a chance of 1 in a
// million.
func DeriveMAC(seed string, attempt int) MAC {
	text := "mac " + seed
	if attempt > 0 {
		text += " " + strconv.Itoa(attempt)
	}
	hash := sha256.Sum256([]byte(text))
	mac := MAC(hash[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// Hardware is the address as Go's network packages have it.
func (m MAC) Hardware() net.HardwareAddr { return net.HardwareAddr(m[:]) }

// String is in lower case, with colons.
func (m MAC) String() string { return m.Hardware().String() }

// Unicast says whether the address can be that of one card: that of a group of cards, and the one that is all zeros,
// can't.
func (m MAC) Unicast() bool { return m != MAC{} && m[0]&0x01 == 0 }

// MACLeaseName is the name of the lease of a MAC: mac-82-6d-f0-9f-39-13.
func MACLeaseName(mac MAC) string {
	return macLeasePrefix + strings.ReplaceAll(mac.String(), ":", "-")
}

// ParseMACLeaseName returns the MAC whose MACLeaseName this is. Any other spelling is refused with ErrLeaseName, as two
// names for one MAC would be two leases.
func ParseMACLeaseName(name string) (MAC, error) {
	text, found := strings.CutPrefix(name, macLeasePrefix)
	mac, err := ParseMAC(text)
	if !found || err != nil || MACLeaseName(mac) != name {
		return MAC{}, fmt.Errorf("%q: %w", name, ErrLeaseName)
	}
	return mac, nil
}
