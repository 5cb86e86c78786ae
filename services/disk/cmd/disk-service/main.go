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
		Name: "disk-service", Prefix: disk.DefaultPrefix,
		// Without the snapshot service no disk is made from a snapshot.
		Peers: []standalone.Peer{{Name: "image"}, {Name: "snapshot", Optional: true}},
		Flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&options.Dir, "dir", "", "directory of the volumes, best on the file system of DVCR's storage")
			fs.StringVar(&options.DefaultStorageClass, "default-storage-class", "", "storage class of disks that name none (default the cluster's)")
			fs.StringVar(&options.DefaultImageStorageClass, "default-image-storage-class", "", "storage class of images on a storage class that name none (default the cluster's)")
			serve.NameSetting(fs, "default-storage-class", "virtualDisks.defaultStorageClassName")
			serve.NameSetting(fs, "default-image-storage-class", "virtualImages.defaultStorageClassName")
			fs.Float64Var(&options.Overcommit, "overcommit", 0, "how many times the free space of the volumes' file system disks may be promised (default no limit)")
		},
		New: func(_ context.Context, h standalone.Host) (serve.Part, error) {
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.Images, options.Snapshots = h.Peer("image"), h.Peer("snapshot")
			service, err := disk.New(options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run)
}
