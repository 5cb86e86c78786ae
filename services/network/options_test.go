package network_test

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	network "orlop.dev/services/network"
)

func TestOptionsSayAllThatIsWrong(t *testing.T) {
	right := network.Options{Etcd: &clientv3.Client{}, StateDir: "state"}
	tests := map[string]struct {
		change func(*network.Options)
		words  []string
	}{
		"right":                     {func(*network.Options) {}, nil},
		"taps need no state":        {func(o *network.Options) { o.Mode, o.StateDir = network.ModeTap, "" }, nil},
		"a gateway in the pool":     {func(o *network.Options) { o.Gateways = []string{"10.66.10.1"} }, nil},
		"nothing given":             {func(o *network.Options) { *o = network.Options{} }, []string{"Etcd", "StateDir"}},
		"no CIDR":                   {func(o *network.Options) { o.CIDRs = []string{"10.66.10.0"} }, []string{"CIDRs"}},
		"CIDRs that overlap":        {func(o *network.Options) { o.CIDRs = []string{"10.66.0.0/16", "10.66.10.0/24"} }, []string{"CIDRs"}},
		"a gateway elsewhere":       {func(o *network.Options) { o.Gateways = []string{"10.0.0.1"} }, []string{"CIDRs"}},
		"a name of a name server":   {func(o *network.Options) { o.DNS = []string{"localhost"} }, []string{"DNS"}},
		"another mode":              {func(o *network.Options) { o.Mode = "bridge" }, []string{"Mode"}},
		"user mode without a state": {func(o *network.Options) { o.Mode, o.StateDir = network.ModeUser, "" }, []string{"StateDir"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			opts := right
			test.change(&opts)
			err := opts.Validate()
			if (err == nil) != (len(test.words) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, word := range test.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v says nothing of %s", err, word)
				}
			}
		})
	}
}
