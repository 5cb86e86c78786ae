package address

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sort"
)

// A block is a run of usable addresses.
type block struct {
	first netip.Addr
	start uint64 // index of first in its space
	skip  netip.Addr
}

// A space numbers all usable addresses of one family from 0 to extent-1, so that a random number is a random address.
type space struct {
	blocks []block
	extent uint64
	size   uint64 // extent without the gateways
}

// maxBlock bounds what Pick uses of one CIDR, so that indices fit 64 bits: nobody has 2^56 guests.
const maxBlock = 1 << 56

func (s *space) extend(prefix netip.Prefix, gateway netip.Addr) {
	first, count := prefix.Addr(), uint64(maxBlock)
	if host := prefix.Addr().BitLen() - prefix.Bits(); host < 56 {
		count = 1 << host
	}
	if hasBoundary(prefix) {
		first, count = first.Next(), count-2
	}
	s.blocks = append(s.blocks, block{first: first, start: s.extent, skip: gateway})
	s.extent += count
	s.size += count
	if gateway.IsValid() {
		s.size--
	}
}

// at returns the address of an index, and whether a guest may have it.
func (s *space) at(index uint64) (netip.Addr, bool) {
	i := sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].start > index }) - 1
	found := add(s.blocks[i].first, index-s.blocks[i].start)
	return found, found != s.blocks[i].skip
}

// pick walks all indices once, in steps of a random length that has no divisor in common with their number: each walk
// is a cheap random permutation. It therefore finds an address after extent/free steps on average, and finds the last
// one for certain, without favouring what lies behind a run of taken addresses.
func (s *space) pick(taken func(netip.Addr) bool) (netip.Addr, bool) {
	if s.extent == 0 {
		return netip.Addr{}, false
	}
	index, stride := rand.Uint64N(s.extent), coprime(s.extent)
	for range s.extent {
		if candidate, usable := s.at(index); usable && !taken(candidate) {
			return candidate, true
		}
		index = (index + stride) % s.extent
	}
	return netip.Addr{}, false
}

// Pick returns an address that a guest may have and that is not taken, chosen at random; IPv4 as long as there is any.
// It asks taken about few addresses while the pool is far from full, and about each one, once, before it returns
// ErrExhausted. It reserves nothing: the caller creates the lease, and picks again when somebody else was faster.
func (p *Pool) Pick(taken func(netip.Addr) bool) (netip.Addr, error) {
	for _, space := range []*space{&p.v4, &p.v6} {
		if picked, found := space.pick(taken); found {
			return picked, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}

// coprime returns a random step for a walk over n indices. Two random numbers have no divisor in common in 6 of 10
// cases, so this ends soon.
func coprime(n uint64) uint64 {
	for {
		step := rand.Uint64N(n) + 1
		if gcd(step, n) == 1 {
			return step
		}
	}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// add returns the address that many places after another.
func add(address netip.Addr, offset uint64) netip.Addr {
	if address.Is4() {
		raw := address.As4()
		binary.BigEndian.PutUint32(raw[:], binary.BigEndian.Uint32(raw[:])+uint32(offset))
		return netip.AddrFrom4(raw)
	}
	raw := address.As16()
	low, carry := bits.Add64(binary.BigEndian.Uint64(raw[8:]), offset, 0)
	binary.BigEndian.PutUint64(raw[8:], low)
	binary.BigEndian.PutUint64(raw[:8], binary.BigEndian.Uint64(raw[:8])+carry)
	return netip.AddrFrom16(raw)
}
