// Command disk-service is the disk service in a process of its own.
package main

import (
	"context"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/standalone"
	"orlop.dev/services/disk"
)

func main() {
	var options disk.Options
	standalone.Main(standalone.Command{
		Name: "disk-service", Prefix: disk.DefaultPrefix, Peers: []standalone.Peer{{Name: "image"}},
		Flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&options.Dir, "dir", "", "directory of the volumes, best on the file system of DVCR's storage")
		},
		New: func(_ context.Context, h standalone.Host) (serve.Part, error) {
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.Images = h.Peer("image")
			service, err := disk.New(options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run)
}
