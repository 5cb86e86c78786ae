// Command network-service serves IP addresses of VMs, their leases and the way to
// guests, in a process of its own.
package main

import (
	"context"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/standalone"
	network "orlop.dev/services/network"
)

func main() { standalone.Main(run) }

func run(ctx context.Context, arguments []string) error {
	var options network.Options
	return standalone.Command{
		Name: "network-service", Prefix: network.DefaultPrefix,
		// Without the VM service addresses of VMs that are gone stay.
		Peers: []standalone.Peer{{Name: "vm", Optional: true}},
		Flags: func(fs *pflag.FlagSet) { bind(fs, &options) },
		New: func(_ context.Context, h standalone.Host) (serve.Part, error) {
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.VirtualMachines = h.Peer("vm")
			service, err := network.New(options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run(ctx, arguments)
}
