package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"orlop.dev/services/network/internal/address"
)

// Address is what is leased.
type Address interface {
	comparable
	// String is how an owner's status has it.
	String() string
}

// Space is the addresses that can be had.
type Space[A Address] interface {
	// Pick returns an address that is not taken; false if there is none. It
	// reserves nothing.
	Pick(owner Owner, taken func(A) bool) (A, bool)
	// Full says, for people, that there is none.
	Full() string
	// Check returns an error, for people, for an address that no guest may have.
	Check(A) error
	// Parse reads an address as its owner names it.
	Parse(text string) (A, error)
	// Name is that of the address' lease; ParseName reads it, in this spelling only.
	Name(A) string
	ParseName(name string) (A, error)
}

// IPs is a pool of CIDRs: a free address is picked at random.
func IPs(pool *address.Pool) Space[netip.Addr] { return ips{pool} }

type ips struct{ pool *address.Pool }

func (s ips) Pick(_ Owner, taken func(netip.Addr) bool) (netip.Addr, bool) {
	picked, err := s.pool.Pick(taken)
	return picked, err == nil
}

func (s ips) Full() string {
	return fmt.Sprintf("All %d addresses of %s are taken", s.pool.Size(), s.cidrs())
}

func (s ips) Check(wanted netip.Addr) error {
	if err := s.pool.Check(wanted); err != nil {
		return fmt.Errorf("%w; the pool is %s", err, s.cidrs())
	}
	return nil
}

func (s ips) cidrs() string {
	var all []string
	for _, subnet := range s.pool.Subnets() {
		all = append(all, subnet.Prefix.String())
	}
	return strings.Join(all, ", ")
}

func (ips) Parse(text string) (netip.Addr, error) {
	at, err := netip.ParseAddr(text)
	if err != nil {
		return at, fmt.Errorf("%q is not an IP address", text)
	}
	return at, nil
}

func (ips) Name(at netip.Addr) string                 { return address.LeaseName(at) }
func (ips) ParseName(name string) (netip.Addr, error) { return address.ParseLeaseName(name) }

// MACs is all addresses of cards. An owner gets the first free one of those that
// its seed leads to, so that it is the same on each machine. Those that this
// machine has are nobody's.
func MACs(reserved ...address.MAC) Space[address.MAC] { return macs{reserved} }

type macs struct{ reserved []address.MAC }

// derivations bounds the search for a free MAC: two seeds share one by a chance
// of 1 in 2^46.
const derivations = 64

func (s macs) Pick(owner Owner, taken func(address.MAC) bool) (address.MAC, bool) {
	for attempt := range derivations {
		if candidate := address.DeriveMAC(owner.seed(), attempt); s.Check(candidate) == nil && !taken(candidate) {
			return candidate, true
		}
	}
	return address.MAC{}, false
}

func (macs) Full() string { return "No free MAC address was found" }

func (s macs) Check(wanted address.MAC) error {
	switch {
	case !wanted.Unicast():
		return fmt.Errorf("MAC address %s is not one card's", wanted)
	case slices.Contains(s.reserved, wanted):
		return fmt.Errorf("MAC address %s is the gateway's", wanted)
	}
	return nil
}

func (macs) Parse(text string) (address.MAC, error) {
	mac, err := address.ParseMAC(text)
	if err != nil {
		return mac, fmt.Errorf("%q is not a MAC address", text)
	}
	return mac, nil
}

func (macs) Name(mac address.MAC) string                { return address.MACLeaseName(mac) }
func (macs) ParseName(name string) (address.MAC, error) { return address.ParseMACLeaseName(name) }
