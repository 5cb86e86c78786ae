package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"orlop.dev/services/image"
)

// settings are the flags that only this service has. Secrets come from files.
type settings struct {
	registry, registryCA       string
	registryUser, passwordFile string
	registryPrefix             string
	registryPlainHTTP          bool
	blobDir, stagingDir        string
	maxVirtualSize             string
	allowSources               []string
	imports                    int
	uploads                    image.Uploads
}

func (s *settings) bind(fs *pflag.FlagSet) {
	fs.StringVar(&s.registry, "registry", "", "host:port of DVCR, the registry of disk images")
	fs.StringVar(&s.registryCA, "registry-ca", "", "PEM file with the registry's authority")
	fs.StringVar(&s.registryUser, "registry-user", "", "user name for the registry")
	fs.StringVar(&s.passwordFile, "registry-password-file", "", "file with the password for the registry")
	fs.StringVar(&s.registryPrefix, "registry-prefix", "", "what stands before the names of repositories, such as team/")
	fs.BoolVar(&s.registryPlainHTTP, "registry-plain-http", false, "talk to the registry without TLS; for a loopback address only")
	fs.StringVar(&s.blobDir, "blob-dir", "", "the registry's storage directory, where it is on this machine")
	fs.StringVar(&s.stagingDir, "staging-dir", "", "directory for imports under way")
	fs.StringVar(&s.maxVirtualSize, "max-virtual-size", "", "largest disk that an image may describe, such as 2Ti")
	fs.StringSliceVar(&s.allowSources, "allow-image-source", nil, "networks (CIDR) that images may come from although they are not public")
	fs.StringVar(&s.uploads.URL, "upload-url", "", "https://host:port of the gateway, to which users upload files (none are taken if empty)")
	fs.StringVar(&s.uploads.InClusterURL, "upload-url-in-cluster", "", "the same for users in the cluster, where it is another one")
	fs.StringVar(&s.uploads.CAFile, "upload-ca", "", "PEM file on users' machines that verifies the gateway, for status.uploadCommand")
	fs.DurationVar(&s.uploads.Timeout, "upload-timeout", image.DefaultUploadTimeout, "how long an upload is waited for without a byte")
	fs.IntVar(&s.imports, "imports", image.DefaultImports, "how many imports run at once")
}

// image is the settings as the service takes them.
func (s *settings) image() (image.Options, error) {
	o := image.Options{
		StagingDir: s.stagingDir, Imports: s.imports, Uploads: s.uploads,
		Registry: image.Registry{
			Endpoint: s.registry, PlainHTTP: s.registryPlainHTTP, Username: s.registryUser, Prefix: s.registryPrefix,
		},
	}
	if s.blobDir != "" {
		o.BlobPath = image.BlobsIn(s.blobDir)
	}
	if s.maxVirtualSize != "" {
		size, err := resource.ParseQuantity(s.maxVirtualSize)
		if err != nil {
			return o, fmt.Errorf("max-virtual-size: %w", err)
		}
		o.Limits.MaxVirtualBytes = size.Value()
	}
	for _, text := range s.allowSources {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return o, fmt.Errorf("allow-image-source: %w", err)
		}
		o.AllowSources = append(o.AllowSources, network)
	}
	return o, s.secrets(&o.Registry)
}

// secrets reads what may not stand in a flag.
func (s *settings) secrets(r *image.Registry) error {
	if s.passwordFile != "" {
		text, err := os.ReadFile(s.passwordFile)
		if err != nil {
			return err
		}
		r.Password = strings.TrimSpace(string(text))
	}
	if s.registryCA == "" {
		return nil
	}
	var err error
	r.CA, err = os.ReadFile(s.registryCA)
	return err
}
