// Command snapshot-service serves snapshots of disks and VMs in a process of its
// own.
package main

import (
	"context"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/standalone"
	"orlop.dev/services/snapshot"
)

func main() { standalone.Main(run) }

func run(ctx context.Context, arguments []string) error {
	var options snapshot.Options
	return standalone.Command{
		Name: "snapshot-service", Prefix: snapshot.DefaultPrefix,
		Peers: []standalone.Peer{{Name: "disk"}, {Name: "vm"}, {Name: "network"}, {Name: "image", Optional: true}, {Name: "secret", Optional: true}},
		Flags: func(fs *pflag.FlagSet) {
			fs.StringSliceVar(&options.ClassAliases, "volume-snapshot-class-aliases", nil, "further names of the VolumeSnapshotClass")
		},
		New: func(_ context.Context, h standalone.Host) (serve.Part, error) {
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.Disks, options.Machines, options.Networks = h.Peer("disk"), h.Peer("vm"), h.Peer("network")
			options.Images, options.Secrets = h.Peer("image"), h.Peer("secret")
			service, err := snapshot.New(options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run(ctx, arguments)
}
