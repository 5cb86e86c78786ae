// Package etcd runs an etcd inside this process, for the services and the
// Kubernetes API beside it.
//
// It owns a data directory and a unix socket in a directory that only its owner
// can enter: that is the access control. It must not know what is stored.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// quotaBytes is etcd's own limit for what is still quick to start from.
	quotaBytes = 8 << 30
	// retention is how far back a watch can start. kube-apiserver keeps five
	// minutes of its own.
	retention = "10m"
	// defragmentMegabytes is how much must be free in the file for a start to
	// take the time to give it back.
	defragmentMegabytes = 100
	connectTimeout      = 10 * time.Second
	logFiles            = 0o600
)

// ErrExposed says that others than the owner can enter the socket's directory.
var ErrExposed = errors.New("others than its owner can enter the directory")

// Options say where etcd keeps things.
type Options struct {
	// Dir has the data. It is made if missing.
	Dir string
	// Socket is the path that etcd listens on; its directory exists and is its
	// owner's alone.
	Socket string
	// Log is the file that etcd writes to.
	Log    string
	Logger *slog.Logger
}

// Server is a running etcd.
type Server struct {
	etcd     *embed.Etcd
	client   *clientv3.Client
	endpoint string
	logger   *slog.Logger
	log      *os.File
}

// Start starts etcd and returns when it serves. All writes are durable. ctx
// bounds the start alone: Close ends the server. Two servers must not have one
// directory; the second would wait for the first until ctx ends.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := checkOwn(filepath.Dir(o.Socket)); err != nil {
		return nil, err
	}
	if err := removeSockets(o.Socket); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, logFiles)
	if err != nil {
		return nil, err
	}
	s := &Server{endpoint: "unix://" + o.Socket, logger: o.Logger, log: log}
	if err := s.start(ctx, configuration(o, zapOf(log))); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, config *embed.Config) error {
	var err error
	if s.etcd, err = embed.StartEtcd(config); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return fmt.Errorf("etcd ended: %w", err)
	case <-ctx.Done():
		return fmt.Errorf("etcd isn't ready: %w", ctx.Err())
	}
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{s.endpoint}, DialTimeout: connectTimeout, Logger: zap.NewNop(),
	})
	return err
}

func configuration(o Options, logger *zap.Logger) *embed.Config {
	config := embed.NewConfig()
	config.Name = "orlop"
	config.Dir = o.Dir
	config.QuotaBackendBytes = quotaBytes
	config.AutoCompactionMode, config.AutoCompactionRetention = "periodic", retention
	config.BootstrapDefragThresholdMegabytes = defragmentMegabytes
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	client := url.URL{Scheme: "unix", Path: o.Socket}
	peer := url.URL{Scheme: "unix", Path: peerSocket(o.Socket)}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config
}

func zapOf(log *os.File) *zap.Logger {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(log), zap.WarnLevel))
}

func peerSocket(socket string) string { return socket + ".peer" }

// removeSockets removes what a killed process left.
func removeSockets(socket string) error {
	for _, path := range []string{socket, peerSocket(socket)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func checkOwn(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w", dir, ErrExposed)
	}
	return nil
}

// Version is that of the etcd inside.
func Version() string { return version.Version }

// Client is a client of the server. It ends with it.
func (s *Server) Client() *clientv3.Client { return s.client }

// Endpoint is the URL for other processes of the same user.
func (s *Server) Endpoint() string { return s.endpoint }

// Failed tells when the server has come to an end that nobody asked for.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Close ends the server and returns when its files are closed.
func (s *Server) Close() error {
	var err error
	if s.client != nil {
		err = s.client.Close()
	}
	if s.etcd != nil {
		s.etcd.Close()
	}
	return errors.Join(err, s.log.Close())
}
