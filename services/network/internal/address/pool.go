// Package address owns the arithmetic of guest addresses: which addresses a pool of CIDRs offers, which one a new
// guest gets, which gateway serves it, and what its lease is called. It keeps no record of what is taken: the caller
// does, and answers for it when asked.
package address

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// ErrExhausted says that every usable address of the pool is taken.
var ErrExhausted = errors.New("every address of the pool is taken")

// A CIDRError says why one configured CIDR can't be part of a pool.
type CIDRError struct {
	CIDR string
	Rule string
}

func (e *CIDRError) Error() string { return fmt.Sprintf("CIDR %q %s", e.CIDR, e.Rule) }

// An OverlapError names two CIDRs of one pool that share addresses.
type OverlapError struct {
	First, Second netip.Prefix
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("CIDRs %s and %s overlap", e.First, e.Second)
}

// A GatewayError says why a configured address can't serve as a gateway.
type GatewayError struct {
	Gateway string
	Rule    string
}

func (e *GatewayError) Error() string { return fmt.Sprintf("gateway %q %s", e.Gateway, e.Rule) }

// Misfit says why no guest may have an address.
type Misfit string

// The ways in which an address doesn't fit.
const (
	Outside  Misfit = "is outside each CIDR of the pool"
	Boundary Misfit = "is the first or the last address of its CIDR"
	Reserved Misfit = "is the gateway of its CIDR"
)

// A MisfitError says which address no guest may have, and why.
type MisfitError struct {
	Address netip.Addr
	Misfit  Misfit
}

func (e *MisfitError) Error() string { return fmt.Sprintf("address %s %s", e.Address, e.Misfit) }

// A Pool is an immutable set of CIDRs from which guests get their addresses. It is safe for concurrent use.
type Pool struct {
	subnets []Subnet
	v4, v6  space
}

// ParsePool reads the CIDRs and gateways of a configuration and builds their Pool: see NewPool.
func ParsePool(cidrs, gateways []string) (*Pool, error) {
	prefixes := make([]netip.Prefix, len(cidrs))
	for i, text := range cidrs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, &CIDRError{CIDR: text, Rule: "is not an address, a slash and a length"}
		}
		prefixes[i] = prefix
	}
	reserved := make([]netip.Addr, len(gateways))
	for i, text := range gateways {
		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return nil, &GatewayError{Gateway: text, Rule: "is not an address"}
		}
		reserved[i] = gateway
	}
	return NewPool(prefixes, reserved...)
}

// NewPool builds a pool of at least one CIDR. The first and the last address of each CIDR are never given, but those of
// a /31 and /32 (/127 and /128) are, as nothing else would be left (RFC 3021).
//
// Each gateway, at most one a CIDR, is taken out of its CIDR. A CIDR without one loses nothing: see Subnet.
//
// Errors: *CIDRError, *OverlapError, *GatewayError.
func NewPool(prefixes []netip.Prefix, gateways ...netip.Addr) (*Pool, error) {
	if err := validate(prefixes); err != nil {
		return nil, err
	}
	reserved, err := assign(prefixes, gateways)
	if err != nil {
		return nil, err
	}
	pool := &Pool{}
	for _, prefix := range prefixes {
		pool.spaceOf(prefix.Addr()).extend(prefix, reserved[prefix])
	}
	for _, prefix := range prefixes {
		subnet, err := pool.subnet(prefix, reserved[prefix])
		if err != nil {
			return nil, err
		}
		pool.subnets = append(pool.subnets, subnet)
	}
	return pool, nil
}

// Subnets lists the pool's CIDRs in the order in which they were given.
func (p *Pool) Subnets() []Subnet { return slices.Clone(p.subnets) }

// Gateway4 is the gateway of the first IPv4 CIDR; the zero Addr if there is none.
func (p *Pool) Gateway4() netip.Addr {
	for _, subnet := range p.subnets {
		if subnet.Gateway.Is4() {
			return subnet.Gateway
		}
	}
	return netip.Addr{}
}

// Lookup finds the subnet that an address lies in, be the address usable or not.
func (p *Pool) Lookup(address netip.Addr) (Subnet, bool) {
	for _, subnet := range p.subnets {
		if subnet.Prefix.Contains(address) {
			return subnet, true
		}
	}
	return Subnet{}, false
}

// Check returns a *MisfitError for an address that no guest may have, and nil for any other.
func (p *Pool) Check(address netip.Addr) error {
	subnet, found := p.Lookup(address)
	switch {
	case !found:
		return &MisfitError{Address: address, Misfit: Outside}
	case isBoundary(subnet.Prefix, address):
		return &MisfitError{Address: address, Misfit: Boundary}
	case address == subnet.Gateway:
		return &MisfitError{Address: address, Misfit: Reserved}
	}
	return nil
}

// Contains says whether a guest may have the address.
func (p *Pool) Contains(address netip.Addr) bool { return p.Check(address) == nil }

// Size is the number of addresses that guests may have; math.MaxUint64 stands for all that is larger.
func (p *Pool) Size() uint64 {
	if total := p.v4.size + p.v6.size; total >= p.v4.size {
		return total
	}
	return math.MaxUint64
}

func (p *Pool) spaceOf(address netip.Addr) *space {
	if address.Is4() {
		return &p.v4
	}
	return &p.v6
}

func validate(prefixes []netip.Prefix) error {
	if len(prefixes) == 0 {
		return &CIDRError{Rule: "is missing: a pool needs at least one"}
	}
	for i, prefix := range prefixes {
		if rule := brokenRule(prefix); rule != "" {
			return &CIDRError{CIDR: prefix.String(), Rule: rule}
		}
		for _, earlier := range prefixes[:i] {
			if earlier.Overlaps(prefix) {
				return &OverlapError{First: earlier, Second: prefix}
			}
		}
	}
	return nil
}

// shortest is the least length of a CIDR and of a link: no private range is larger.
const shortest = 8

// brokenRule returns the rule that a CIDR breaks on its own, or nothing.
func brokenRule(prefix netip.Prefix) string {
	switch {
	case !prefix.IsValid():
		return "is not valid"
	case prefix.Addr().Is4In6():
		return "is an IPv4 range in IPv6 form: write it as IPv4"
	case prefix != prefix.Masked():
		return fmt.Sprintf("has bits behind its length: %s was meant?", prefix.Masked())
	case prefix.Bits() < shortest:
		return fmt.Sprintf("is too large: at least /%d is needed", shortest)
	case !ordinary(prefix.Addr()) || !ordinary(last(prefix)):
		return "is not a range of ordinary unicast addresses"
	}
	return ""
}

// assign maps each gateway to its CIDR.
func assign(prefixes []netip.Prefix, gateways []netip.Addr) (map[netip.Prefix]netip.Addr, error) {
	reserved := map[netip.Prefix]netip.Addr{}
	for _, gateway := range gateways {
		at := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(gateway) })
		if at < 0 {
			return nil, &GatewayError{Gateway: gateway.String(), Rule: string(Outside)}
		}
		prefix := prefixes[at]
		other, twice := reserved[prefix]
		switch {
		case isBoundary(prefix, gateway):
			return nil, &GatewayError{Gateway: gateway.String(), Rule: string(Boundary)}
		case prefix.IsSingleIP():
			return nil, &GatewayError{Gateway: gateway.String(), Rule: "is all that its CIDR has"}
		case twice:
			return nil, &GatewayError{Gateway: gateway.String(), Rule: fmt.Sprintf("is in %s, as is %s", prefix, other)}
		}
		reserved[prefix] = gateway
	}
	return reserved, nil
}
