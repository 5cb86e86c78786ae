// Package registry runs DVCR, the registry of disk images, inside this process:
// the CNCF distribution registry with its files on this machine.
//
// It owns a directory, a random credential, an HTTPS server, and the collector of
// what nobody needs there. It must not know what is in the images.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // basic authentication
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"orlop.dev/deploy/local/internal/registry/garbage"
)

const (
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 10 * time.Second
	// catalogEntries bounds one answer to who asks for the list of repositories.
	catalogEntries = 1000
)

// Options say where the registry keeps things and who serves it.
type Options struct {
	// Dir has blobs, manifests and the credential. It is made if missing.
	Dir string
	// TLS has the server's certificate.
	TLS *tls.Config
	// Metrics is where counters are registered; nil for nowhere.
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Registry is DVCR on this machine.
type Registry struct {
	options    Options
	credential Credential
	collector  *garbage.Collector
	handler    http.Handler
}

// New makes what is missing in the directory. Run serves. Idempotent; what a
// killed process left half done, the next New does again.
func New(o Options) (*Registry, error) {
	if err := os.MkdirAll(storage(o.Dir), 0o700); err != nil {
		return nil, err
	}
	credential, err := ensureCredential(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("the registry's credential: %w", err)
	}
	collector, err := garbage.New(garbage.Options{
		Dir: storage(o.Dir), Trash: filepath.Join(o.Dir, "trash"), Metrics: o.Metrics, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	silence()
	r := &Registry{options: o, credential: credential, collector: collector}
	// With its purge of uploads off, the application does nothing by itself.
	r.handler = collector.Guard(handlers.NewApp(context.Background(), r.configuration()))
	return r, nil
}

// Credential is what clients log in with.
func (r *Registry) Credential() Credential { return r.credential }

// Dir is where the data of images is.
func (r *Registry) Dir() string { return storage(r.options.Dir) }

// Run collects garbage and serves on the listener, which it closes, until ctx ends; uploads under way
// get some time to finish. The storage is this process's alone meanwhile.
func (r *Registry) Run(ctx context.Context, listener net.Listener) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var collecting sync.WaitGroup
	defer collecting.Wait()
	defer stop()
	collecting.Go(func() { r.collector.Run(work) })
	server := &http.Server{
		Handler: r.handler, TLSConfig: r.options.TLS,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(r.options.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(work, shutdownTimeout)
	defer cancel()
	err := server.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // uploads are resumed by who made them
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (r *Registry) configuration() *configuration.Configuration {
	c := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": r.Dir()},
			"delete":     configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{
				// The collector does that, and knows which uploads are at work.
				"uploadpurging": map[any]any{"enabled": false},
			},
		},
		Auth: configuration.Auth{"htpasswd": configuration.Parameters{"realm": "dvcr", "path": passwordFile(r.options.Dir)}},
	}
	c.Catalog.MaxEntries = catalogEntries
	c.HTTP.Secret = r.credential.secret
	c.HTTP.RelativeURLs = true
	c.Log.AccessLog.Disabled = true
	c.Log.Level = "error"
	return c
}

// silence keeps the registry's library from writing to this process's standard
// error: it has one logger for all, and clients are told each error anyway.
func silence() { logrus.SetOutput(io.Discard) }

func storage(dir string) string { return filepath.Join(dir, "registry") }
