// Command vm-service is the vm service in a process of its own.
package main

import (
	"context"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/standalone"
	"orlop.dev/services/vm"
)

func main() {
	var options vm.Options
	standalone.Main(standalone.Command{
		Name: "vm-service", Prefix: vm.DefaultPrefix, Peers: []standalone.Peer{{Name: "disk"}, {Name: "image"}, {Name: "network"}, {Name: "snapshot", Optional: true}, {Name: "secret", Optional: true}},
		Flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&options.Dir, "dir", "", "directory of what belongs to running guests")
			fs.StringSliceVar(&options.DiskRoots, "disk-root", nil, "directories that disks have their files in")
			fs.StringSliceVar(&options.Nodes, "nodes", []string{"node-1", "node-2"}, "names of the simulated nodes")
			fs.Int64Var(&options.MilliCPU, "milli-cpu", 0, "thousandths of a CPU that all nodes together have for VMs")
			fs.Int64Var(&options.MemoryBytes, "memory-bytes", 0, "bytes of memory that all nodes together have for VMs")
			fs.StringVar(&options.QEMU, "qemu", "", "the emulator (found by its usual name if empty)")
		},
		New: func(ctx context.Context, h standalone.Host) (serve.Part, error) {
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.Disks, options.Images, options.Networks = h.Peer("disk"), h.Peer("image"), h.Peer("network")
			options.Snapshots, options.Secrets = h.Peer("snapshot"), h.Peer("secret")
			service, err := vm.New(ctx, options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run)
}
