package image

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/source"
)

const (
	// DefaultPrefix is where the service's objects are in etcd.
	DefaultPrefix = "/orlop/image"
	// DefaultImports is how many imports run at once.
	DefaultImports = 2
	// DefaultMaxVirtualBytes is the largest disk that an image may describe.
	DefaultMaxVirtualBytes = diskimage.DefaultVirtualBytes
)

// Options say what the service works with.
type Options struct {
	Etcd *clientv3.Client
	// Prefix is DefaultPrefix where it is empty.
	Prefix   string
	Registry Registry
	// BlobPath finds the file of a blob by its digest ("sha256:..."), where the
	// registry's storage is on this machine. Nil: it is not.
	BlobPath func(digest string) (path string, ok bool)
	// UploadDir finds the folder of an upload, where this process may write into
	// the registry's storage: imports then move their bytes once. Nil: they go to
	// the registry by requests.
	UploadDir func(repository, id string) (path string)
	// StagingDir holds what imports under way need after a restart, at most the
	// stored size of each raw image that is imported. It is made if missing and
	// must be this service's alone.
	StagingDir string
	Limits     Limits
	// Uploads say where users send files to.
	Uploads Uploads
	// AllowSources are networks that images may be fetched from although they are
	// not public, such as 127.0.0.0/8.
	AllowSources []netip.Prefix
	// Secrets reaches the SecretService, which has the pull secrets of registries.
	// Nil: there is none, and images that name one say so.
	Secrets grpc.ClientConnInterface
	// Disks reaches the disk service, which has the disks that images are made from
	// and keeps images on storage classes. Nil: there is none, and images that need
	// it say so.
	Disks grpc.ClientConnInterface
	// Snapshots reaches the snapshot service, which has the snapshots that images are
	// made from. Nil: there is none, and images that need it say so.
	Snapshots grpc.ClientConnInterface
	// Imports is how many run at once; DefaultImports where it is 0.
	Imports int
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger

	pace pace
}

// pace is how patient imports are, as in job.Options. Only tests set it.
type pace struct {
	initial, max time.Duration
	retry        source.Retry
	chunkBytes   int64
}

// Registry says where images are kept (DVCR), and how to log in.
type Registry struct {
	// Endpoint is host:port.
	Endpoint string
	// PlainHTTP leaves TLS out; only a loopback address may have that.
	PlainHTTP bool
	// CA has authorities to trust beside the system's, in PEM.
	CA []byte
	// Username and Password are for basic authentication; empty means none.
	Username, Password string
	// Prefix stands before the names of the service's repositories: "team/".
	Prefix string
}

// LogValue keeps the password out of logs.
func (r Registry) LogValue() slog.Value {
	return slog.GroupValue(slog.String("endpoint", r.Endpoint), slog.String("user", r.Username), slog.String("prefix", r.Prefix))
}

// Limits bound what an image may ask for.
type Limits struct {
	// MaxVirtualBytes is the largest disk, as a guest sees it;
	// DefaultMaxVirtualBytes where it is 0.
	MaxVirtualBytes int64
}

// Validate reports everything that is wrong or missing.
func (o Options) Validate() error {
	var problems []error
	if o.Etcd == nil {
		problems = append(problems, errors.New("the field Etcd is required"))
	}
	if o.Registry.Endpoint == "" {
		problems = append(problems, errors.New("Registry.Endpoint is required"))
	}
	if p := o.Registry.Prefix; p != "" && !strings.HasSuffix(p, "/") {
		problems = append(problems, fmt.Errorf("Registry.Prefix %q doesn't end in /", p))
	}
	if o.StagingDir == "" {
		problems = append(problems, errors.New("option StagingDir is required"))
	}
	if o.Imports < 0 || o.Limits.MaxVirtualBytes < 0 {
		problems = append(problems, errors.New("fields Imports and Limits must not be negative"))
	}
	problems = append(problems, o.Uploads.validate())
	for _, network := range o.AllowSources {
		if !network.IsValid() {
			problems = append(problems, errors.New("AllowSources has a network that is none"))
		}
	}
	return errors.Join(problems...)
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Imports == 0 {
		o.Imports = DefaultImports
	}
	if o.Limits.MaxVirtualBytes == 0 {
		o.Limits.MaxVirtualBytes = DefaultMaxVirtualBytes
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// open makes the client of the registry, which reads authorities from a folder.
func (o Options) open() (*dvcr.Registry, error) {
	r := o.Registry
	options := dvcr.Options{
		Endpoint: r.Endpoint, PlainHTTP: r.PlainHTTP, Username: r.Username, Password: r.Password,
		UploadDir: o.UploadDir, BlobPath: o.BlobPath,
	}
	if len(r.CA) > 0 {
		options.CertDir = filepath.Join(o.StagingDir, "registry-ca")
		if err := writeAuthority(options.CertDir, r.CA); err != nil {
			return nil, err
		}
	}
	return dvcr.New(options)
}
