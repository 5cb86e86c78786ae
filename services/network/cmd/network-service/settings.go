package main

import (
	"github.com/spf13/pflag"

	network "orlop.dev/services/network"
)

// bind makes the flags that only this service has.
func bind(fs *pflag.FlagSet, o *network.Options) {
	fs.StringSliceVar(&o.CIDRs, "virtual-machine-cidrs", network.DefaultCIDRs(), "pool of guest addresses")
	fs.StringSliceVar(&o.Gateways, "gateways", nil, "gateways in the pool, at most one a CIDR")
	fs.StringVar(&o.Namespace, "network-namespace", network.DefaultNamespace, "network namespace of guests (the process's own if empty)")
	fs.StringVar(&o.Mode, "mode", network.ModeAuto, "how guests are connected: auto, tap, user")
	fs.StringVar(&o.StateDir, "state-dir", "", "directory that remembers forwarded ports, for modes auto and user")
	fs.StringSliceVar(&o.DNS, "name-servers", nil, "addresses of name servers that guests are told")
}
