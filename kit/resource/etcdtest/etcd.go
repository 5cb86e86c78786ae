// Package etcdtest starts real etcd servers for tests.
package etcdtest

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = time.Minute

// Option changes how a server runs.
type Option func(*embed.Config)

// Durable writes with fsync, as a server that matters does. Without it writes are
// fast and lost with the machine, which is right for tests.
func Durable(c *embed.Config) { c.UnsafeNoFsync = false }

// OnLoopback has the server listen on a port of 127.0.0.1, for clients to which
// unix sockets are no endpoints, such as the Kubernetes API server.
func OnLoopback(c *embed.Config) {
	client := c.ListenClientUrls[0]
	client.Scheme, client.Host, client.Path = "http", "127.0.0.1:0", ""
	c.ListenClientUrls[0], c.AdvertiseClientUrls[0] = client, client
}

// Start runs a server in this process, on unix sockets in a directory of its own,
// until the test ends. It returns a client of it, which ends with the test too.
func Start(t testing.TB, opts ...Option) *clientv3.Client {
	t.Helper()
	return Client(t, Server(t, opts...))
}

// Server is Start without a client: a test may stop it.
func Server(t testing.TB, opts ...Option) *embed.Etcd {
	t.Helper()
	config := configuration(t)
	for _, o := range opts {
		o(config)
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(startTimeout):
		t.Fatalf("etcd was not ready within %s", startTimeout)
	}
	return server
}

// Client connects to a server.
func Client(t testing.TB, server *embed.Etcd) *clientv3.Client {
	t.Helper()
	config := server.Config()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{config.ListenClientUrls[0].String()},
		Logger:    zap.NewNop(),
	})
	if err != nil {
		t.Fatalf("connect to etcd: %v", err)
	}
	t.Cleanup(func() { _ = client.Close() }) // it may have been closed by the test
	return client
}

func configuration(t testing.TB) *embed.Config {
	t.Helper()
	config := embed.NewConfig()
	config.Dir = filepath.Join(t.TempDir(), "etcd")
	config.UnsafeNoFsync = true
	config.LogLevel = "fatal"
	config.Logger = "zap"
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	client, peer := socket(t, "client"), socket(t, "peer")
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config
}

// socket returns the URL of a unix socket. Its directory has a short name of its
// own: the names of tests don't fit into a socket's 108 bytes.
func socket(t testing.TB, name string) url.URL {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // leaves at most an empty directory in the system's own
	return url.URL{Scheme: "unix", Host: "", Path: filepath.Join(dir, name)}
}
