// Package dvcrtest runs the real registry (CNCF distribution, its filesystem
// driver) inside a test.
package dvcrtest

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // basic authentication
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"

	"orlop.dev/services/image/internal/dvcr"
)

// Credentials of a registry with Secure set.
const (
	Username = "orlop"
	Password = "correct horse"
)

// Options says how the registry runs.
type Options struct {
	// Secure asks for TLS and basic authentication.
	Secure bool
	// Root is the storage directory, to be shared with another registry; empty
	// for a new one.
	Root string
	// Local gives clients the registry's files.
	Local bool
	// Wrap, if set, stands between the network and the registry.
	Wrap func(http.Handler) http.Handler
}

// Registry is a registry that runs until the end of the test.
type Registry struct {
	// Options is how to reach it.
	Options dvcr.Options
	// Root is its storage directory.
	Root string
}

// Start runs a registry on a loopback address.
func Start(t testing.TB, o Options) *Registry {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": o.Root},
			"delete":     configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{
				"uploadpurging": map[any]any{"enabled": false},
			},
		},
	}
	config.Catalog.MaxEntries = 1000
	config.HTTP.Secret = "tokens outlive the process"
	config.HTTP.RelativeURLs = true
	config.Log.AccessLog.Disabled = true
	config.Log.Level = "fatal"
	logrus.SetLevel(logrus.FatalLevel)
	if o.Secure {
		config.Auth = configuration.Auth{"htpasswd": configuration.Parameters{
			"realm": "orlop", "path": passwords(t),
		}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var handler http.Handler = handlers.NewApp(ctx, config)
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	server := httptest.NewUnstartedServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
	})
	r := &Registry{Root: o.Root}
	if !o.Secure {
		server.Start()
		r.Options.PlainHTTP = true
	} else {
		server.StartTLS()
		r.Options.Username, r.Options.Password = Username, Password
		r.Options.CertDir = authority(t, server)
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.Options.Endpoint = u.Host
	if o.Local {
		f := files{root: filepath.Join(o.Root, "docker", "registry", "v2")}
		r.Options.UploadDir, r.Options.BlobPath = f.upload, f.blob
	}
	return r
}

// files is the storage of the registry.
type files struct{ root string }

func (f files) upload(repository, id string) string {
	return filepath.Join(f.root, "repositories", filepath.FromSlash(repository), "_uploads", id)
}

func (f files) blob(digest string) (string, bool) {
	algorithm, hex, _ := strings.Cut(digest, ":")
	path := filepath.Join(f.root, "blobs", algorithm, hex[:2], hex, "data")
	_, err := os.Stat(path)
	return path, err == nil
}

// Client returns a client of the registry.
func (r *Registry) Client(t testing.TB) *dvcr.Registry {
	t.Helper()
	client, err := dvcr.New(r.Options)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Repository returns a repository of the registry.
func (r *Registry) Repository(t testing.TB, name string) *dvcr.Repository {
	t.Helper()
	repository, err := r.Client(t).Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	return repository
}

// Put stores a blob in a repository.
func (r *Registry) Put(t testing.TB, repository string, data []byte) dvcr.Blob {
	t.Helper()
	upload, err := r.Repository(t, repository).Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One byte more than there are, so that the end is seen.
	if err := upload.Append(t.Context(), bytes.NewReader(data), int64(len(data))+1); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	blob, err := upload.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func passwords(t testing.TB) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(Password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(Username+":"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func authority(t testing.TB, server *httptest.Server) string {
	t.Helper()
	dir := t.TempDir()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
