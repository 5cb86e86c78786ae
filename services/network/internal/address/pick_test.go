package address

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/quick"
)

func TestPickGivesEachAddressOnceAndThenIsExhausted(t *testing.T) {
	for _, cidrs := range [][]string{
		{"10.66.10.0/24"},
		{"10.66.10.0/30", "10.66.20.0/28", "10.66.30.7/32", "10.66.40.0/31"},
		{"10.66.10.0/29", "fd00::/122"},
	} {
		pool := mustPool(t, cidrs...)
		taken := map[netip.Addr]bool{}
		for range pool.Size() {
			picked, err := pool.Pick(func(a netip.Addr) bool { return taken[a] })
			if err != nil {
				t.Fatalf("%q after %d: %v", cidrs, len(taken), err)
			}
			if taken[picked] || !pool.Contains(picked) {
				t.Fatalf("%q: picked %s: taken %t, in the pool %t", cidrs, picked, taken[picked], pool.Contains(picked))
			}
			taken[picked] = true
		}
		if picked, err := pool.Pick(func(a netip.Addr) bool { return taken[a] }); !errors.Is(err, ErrExhausted) {
			t.Errorf("%q: picked %s, %v from a full pool", cidrs, picked, err)
		}
	}
}

func TestPickPrefersIPv4(t *testing.T) {
	pool := mustPool(t, "fd00::/64", "10.66.10.0/30")
	taken := map[netip.Addr]bool{}
	for i := range 4 {
		picked, err := pool.Pick(func(a netip.Addr) bool { return taken[a] })
		if err != nil || picked.Is4() != (i < 2) {
			t.Fatalf("pick %d = %s, %v", i, picked, err)
		}
		taken[picked] = true
	}
}

// A random pool with a random share of it taken: what is picked is free, and a free address is always found.
func TestPickProperty(t *testing.T) {
	property := func(third, length uint8, seed uint64) bool {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 66, third, 0}), 24+int(length%9)).Masked()
		pool, err := NewPool([]netip.Prefix{cidr})
		if err != nil {
			return false
		}
		random := rand.New(rand.NewPCG(seed, 0))
		share, free := random.Float64(), uint64(0)
		taken := map[netip.Addr]bool{}
		for a := cidr.Addr(); cidr.Contains(a); a = a.Next() {
			if pool.Contains(a) {
				taken[a] = random.Float64() < share
				if !taken[a] {
					free++
				}
			}
		}
		picked, err := pool.Pick(func(a netip.Addr) bool { return taken[a] })
		if free == 0 {
			return errors.Is(err, ErrExhausted)
		}
		return err == nil && pool.Contains(picked) && !taken[picked]
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

// Picks from an empty pool of 254 spread over it: with 25,400 picks each address is expected 100 times, and one that
// came fewer than 40 or more than 180 times is 6 standard deviations off.
func TestPickIsRandom(t *testing.T) {
	pool := mustPool(t, "10.66.10.0/24")
	count := map[netip.Addr]int{}
	for range 25400 {
		picked, err := pool.Pick(func(netip.Addr) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		count[picked]++
	}
	if len(count) != 254 {
		t.Errorf("%d different addresses", len(count))
	}
	for address, n := range count {
		if n < 40 || n > 180 {
			t.Errorf("%s came %d times", address, n)
		}
	}
}

func TestLeaseNameGoesBothWays(t *testing.T) {
	for address, name := range map[string]string{
		"10.66.10.14":     "ip-10-66-10-14",
		"255.255.255.255": "ip-255-255-255-255",
		"fd00::14":        "ip-fd00-0-0-0-0-0-0-14",
		"2001:db8:a:b::":  "ip-2001-db8-a-b-0-0-0-0",
	} {
		parsed := netip.MustParseAddr(address)
		if got := LeaseName(parsed); got != name {
			t.Errorf("LeaseName(%s) = %s, want %s", address, got, name)
		}
		if got, err := ParseLeaseName(name); err != nil || got != parsed {
			t.Errorf("ParseLeaseName(%s) = %s, %v", name, got, err)
		}
	}
}

func TestLeaseNameProperty(t *testing.T) {
	roundTrip := func(address netip.Addr) bool {
		name := LeaseName(address)
		parsed, err := ParseLeaseName(name)
		return err == nil && parsed == address && len(name) <= 63
	}
	v4 := func(raw [4]byte) bool { return roundTrip(netip.AddrFrom4(raw)) }
	v6 := func(raw [16]byte) bool { return roundTrip(netip.AddrFrom16(raw)) }
	for _, property := range []any{v4, v6} {
		if err := quick.Check(property, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestParseLeaseNameRefusesOtherSpellings(t *testing.T) {
	for _, name := range []string{
		"", "ip-", "ip", "10-66-10-14", "ip-10-66-10", "ip-10-66-10-14-1", "ip-010-66-10-14", "ip-10-66-10-256",
		"ip-10.66.10.14", "IP-10-66-10-14", "ip-FD00-0-0-0-0-0-0-14", "ip-fd00--14", "ip-fd00-0-0-0-0-0-0-014",
		"ip-fd00-0-0-0-0-0-0-1%eth0", "vm-10-66-10-14",
	} {
		if got, err := ParseLeaseName(name); !errors.Is(err, ErrLeaseName) {
			t.Errorf("ParseLeaseName(%q) = %s, %v", name, got, err)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	pool := mustPool(b, "10.66.0.0/16", "10.67.0.0/16")
	for _, leases := range []int{0, 16_384, 65_536, 131_067} {
		taken := make(map[netip.Addr]struct{}, leases)
		isTaken := func(a netip.Addr) bool { _, found := taken[a]; return found }
		for len(taken) < leases {
			picked, err := pool.Pick(isTaken)
			if err != nil {
				b.Fatal(err)
			}
			taken[picked] = struct{}{}
		}
		b.Run(fmt.Sprintf("taken=%d/%d", leases, pool.Size()), func(b *testing.B) {
			for b.Loop() {
				if _, err := pool.Pick(isTaken); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
