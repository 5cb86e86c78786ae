package local

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"

	"orlop.dev/deploy/local/internal/etcd"
	"orlop.dev/deploy/local/internal/registry"
	"orlop.dev/facade/home"
)

// store is etcd.
type store struct{ *etcd.Server }

func (d *daemon) startEtcd(ctx context.Context) (string, error) {
	server, err := etcd.Start(ctx, etcd.Options{
		Dir: d.home.Etcd(), Socket: d.home.EtcdSocket(),
		Log: filepath.Join(d.home.Logs(), "etcd.log"), Logger: d.logger,
	})
	if err != nil {
		return "", err
	}
	d.store = &store{server}
	d.stack.push("etcd", server.Close)
	d.stack.run("etcd's watchman", func(ctx context.Context) error {
		select {
		case err := <-server.Failed():
			return fmt.Errorf("etcd ended: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	return "version " + etcd.Version(), nil
}

// images is DVCR.
type images struct{ *registry.Registry }

func (d *daemon) startRegistry(context.Context) (string, error) {
	r, err := registry.New(registry.Options{
		Dir: d.home.Registry(), TLS: withoutHTTP2(d.identity.serverTLS()), Metrics: d.metrics, Logger: d.logger,
	})
	if err != nil {
		return "", err
	}
	d.images = &images{r}
	d.stack.run("DVCR", func(ctx context.Context) error { return r.Run(ctx, d.doors.registry) })
	return d.doors.endpoints[home.DVCR], nil
}

// withoutHTTP2: blobs are moved one a connection, which HTTP/2's flow control
// only slows down.
func withoutHTTP2(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"}
	return c
}
