package address

import (
	"errors"
	"math"
	"net/netip"
	"testing"
)

func prefixes(cidrs ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(cidrs))
	for i, cidr := range cidrs {
		out[i] = netip.MustParsePrefix(cidr)
	}
	return out
}

func mustPool(t testing.TB, cidrs ...string) *Pool {
	t.Helper()
	pool, err := ParsePool(cidrs, nil)
	if err != nil {
		t.Fatalf("ParsePool(%q): %v", cidrs, err)
	}
	return pool
}

func TestPoolOffersAllButFirstAndLast(t *testing.T) {
	tests := map[string]struct {
		cidrs  []string
		size   uint64
		usable []string
		not    map[string]Misfit
	}{
		"a /24": {
			cidrs: []string{"10.66.10.0/24"}, size: 254,
			usable: []string{"10.66.10.1", "10.66.10.14", "10.66.10.254"},
			not: map[string]Misfit{
				"10.66.10.0": Boundary, "10.66.10.255": Boundary, "10.66.11.1": Outside, "::ffff:10.66.10.14": Outside,
			},
		},
		"a /30 has two": {
			cidrs: []string{"10.66.10.4/30"}, size: 2,
			usable: []string{"10.66.10.5", "10.66.10.6"},
			not:    map[string]Misfit{"10.66.10.4": Boundary, "10.66.10.7": Boundary},
		},
		"a /31 has both": {
			cidrs: []string{"10.66.10.4/31"}, size: 2, usable: []string{"10.66.10.4", "10.66.10.5"},
			not: map[string]Misfit{"10.66.10.6": Outside, "10.66.10.3": Outside},
		},
		"a /32 has itself": {cidrs: []string{"10.66.10.4/32"}, size: 1, usable: []string{"10.66.10.4"}},
		"the guide's three": {
			cidrs: []string{"10.66.10.0/24", "10.66.20.0/24", "10.66.30.0/24"}, size: 762,
			usable: []string{"10.66.10.14", "10.66.20.77", "10.66.30.254"},
			not:    map[string]Misfit{"10.66.15.1": Outside, "10.66.30.0": Boundary},
		},
		"IPv6": {
			cidrs: []string{"fd00::/120"}, size: 254, usable: []string{"fd00::1", "fd00::fe"},
			not: map[string]Misfit{"fd00::": Boundary, "fd00::ff": Boundary, "fd00::100": Outside},
		},
		"IPv6 without end": {cidrs: []string{"fd00::/64"}, size: maxBlock - 2, usable: []string{"fd00::ffff:0:0:1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pool := mustPool(t, test.cidrs...)
			if pool.Size() != test.size {
				t.Errorf("Size() = %d, want %d", pool.Size(), test.size)
			}
			for _, address := range test.usable {
				if !pool.Contains(netip.MustParseAddr(address)) {
					t.Errorf("Contains(%s) = false", address)
				}
			}
			for address, want := range test.not {
				var misfit *MisfitError
				if err := pool.Check(netip.MustParseAddr(address)); !errors.As(err, &misfit) || misfit.Misfit != want {
					t.Errorf("Check(%s) = %v, want misfit %q", address, err, want)
				}
			}
		})
	}
}

func TestPoolSizeSaturates(t *testing.T) {
	pool := &Pool{v4: space{size: 10}, v6: space{size: math.MaxUint64 - 5}}
	if pool.Size() != math.MaxUint64 {
		t.Errorf("Size() = %d", pool.Size())
	}
}

func TestPoolRefusesBadCIDRs(t *testing.T) {
	for name, cidrs := range map[string][]string{
		"none":           {},
		"no length":      {"10.66.10.0"},
		"nonsense":       {"guests"},
		"bits behind":    {"10.66.10.7/24"},
		"everything":     {"0.0.0.0/0"},
		"loopback":       {"127.0.0.0/24"},
		"multicast":      {"239.0.0.0/24"},
		"link local":     {"169.254.0.0/16"},
		"mapped":         {"::ffff:10.66.10.0/120"},
		"IPv6 multicast": {"ff02::/64"},
		"second is bad":  {"10.66.10.0/24", "10.66.20.1/24"},
	} {
		t.Run(name, func(t *testing.T) {
			var refused *CIDRError
			if _, err := ParsePool(cidrs, nil); !errors.As(err, &refused) {
				t.Errorf("ParsePool(%q) = %v, want a *CIDRError", cidrs, err)
			}
		})
	}
}

func TestPoolRefusesOverlapAndNamesBoth(t *testing.T) {
	for _, cidrs := range [][]string{
		{"10.66.10.0/24", "10.66.10.0/24"},
		{"10.66.0.0/16", "10.66.10.0/24"},
		{"10.66.10.128/25", "10.66.10.0/24"},
		{"fd00::/64", "fd00::1:0/112"},
	} {
		_, err := ParsePool(append([]string{"192.168.0.0/24"}, cidrs...), nil)
		var overlap *OverlapError
		if !errors.As(err, &overlap) {
			t.Fatalf("ParsePool(%q) = %v, want an *OverlapError", cidrs, err)
		}
		if overlap.First.String() != cidrs[0] || overlap.Second.String() != cidrs[1] {
			t.Errorf("named %s and %s, want %q", overlap.First, overlap.Second, cidrs)
		}
	}
}

func TestPoolRefusesBadGateways(t *testing.T) {
	for name, test := range map[string]struct{ cidrs, gateways []string }{
		"nonsense":     {[]string{"10.66.10.0/24"}, []string{"router"}},
		"outside":      {[]string{"10.66.10.0/24"}, []string{"10.66.11.1"}},
		"boundary":     {[]string{"10.66.10.0/24"}, []string{"10.66.10.255"}},
		"two":          {[]string{"10.66.10.0/24"}, []string{"10.66.10.1", "10.66.10.2"}},
		"nothing left": {[]string{"10.66.10.1/32"}, []string{"10.66.10.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var refused *GatewayError
			if _, err := ParsePool(test.cidrs, test.gateways); !errors.As(err, &refused) {
				t.Errorf("got %v, want a *GatewayError", err)
			}
		})
	}
}

func TestConfiguredGatewayIsNeverGiven(t *testing.T) {
	gateway := netip.MustParseAddr("10.66.10.1")
	pool, err := NewPool(prefixes("10.66.10.0/30", "10.66.20.0/30"), gateway)
	if err != nil {
		t.Fatal(err)
	}
	if pool.Size() != 3 {
		t.Errorf("Size() = %d, want 3", pool.Size())
	}
	var misfit *MisfitError
	if err := pool.Check(gateway); !errors.As(err, &misfit) || misfit.Misfit != Reserved {
		t.Errorf("Check(gateway) = %v", err)
	}
	taken := map[netip.Addr]bool{}
	for range 3 {
		picked, err := pool.Pick(func(a netip.Addr) bool { return taken[a] })
		if err != nil || picked == gateway {
			t.Fatalf("Pick() = %s, %v", picked, err)
		}
		taken[picked] = true
	}
	if subnet, _ := pool.Lookup(gateway); subnet.Link != subnet.Prefix || subnet.Gateway != gateway {
		t.Errorf("subnet = %+v", subnet)
	}
}

func TestSubnetFindsGatewayThatCostsNoAddress(t *testing.T) {
	tests := []struct {
		cidrs         []string
		link, gateway string
	}{
		{[]string{"10.66.10.0/24"}, "10.66.10.0/23", "10.66.10.255"},
		{[]string{"10.66.11.0/24"}, "10.66.10.0/23", "10.66.11.0"},
		{[]string{"10.0.0.0/8"}, "10.0.0.0/7", "10.255.255.255"},
		{[]string{"10.66.10.4/30"}, "10.66.10.0/29", "10.66.10.4"},
		{[]string{"10.66.10.1/32"}, "10.66.10.0/30", "10.66.10.2"},
		{[]string{"10.66.10.2/32"}, "10.66.10.0/30", "10.66.10.1"},
		{[]string{"10.66.10.1/32", "10.66.10.2/32"}, "10.66.10.0/29", "10.66.10.3"},
		{[]string{"10.66.10.0/31"}, "10.66.8.0/22", "10.66.10.2"},
		{[]string{"fd00::/64"}, "fd00::/64", "fd00::"},
	}
	for _, test := range tests {
		t.Run(test.cidrs[0], func(t *testing.T) {
			subnet := mustPool(t, test.cidrs...).Subnets()[0]
			if subnet.Link.String() != test.link || subnet.Gateway.String() != test.gateway {
				t.Errorf("got %s via %s, want %s via %s", subnet.Link, subnet.Gateway, test.link, test.gateway)
			}
		})
	}
}

func TestPoolRefusesCIDRThatFindsNoGateway(t *testing.T) {
	var refused *CIDRError
	if _, err := ParsePool([]string{"10.0.0.0/32"}, nil); !errors.As(err, &refused) {
		t.Errorf("got %v, want a *CIDRError: 10.0.0.0 is the first address of every link around it", err)
	}
}
