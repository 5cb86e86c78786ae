// Command image-service is the image service in a process of its own.
package main

import (
	"context"

	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/standalone"
	"orlop.dev/services/image"
)

func main() {
	var s settings
	standalone.Main(standalone.Command{
		Name: "image-service", Prefix: image.DefaultPrefix, Flags: s.bind,
		Peers: []standalone.Peer{{Name: "secret", Optional: true}, {Name: "disk", Optional: true}, {Name: "snapshot", Optional: true}},
		New: func(_ context.Context, h standalone.Host) (serve.Part, error) {
			options, err := s.image()
			if err != nil {
				return serve.Part{}, err
			}
			options.Etcd, options.Prefix, options.Logger = h.Etcd, h.Prefix, h.Logger
			options.Secrets, options.Disks, options.Snapshots = h.Peer("secret"), h.Peer("disk"), h.Peer("snapshot")
			service, err := image.New(options)
			if err != nil {
				return serve.Part{}, err
			}
			return service.Part(), nil
		},
	}.Run)
}
