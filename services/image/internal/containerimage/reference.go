package containerimage

import (
	"net"
	"net/netip"
	"net/url"

	"github.com/containers/image/v5/docker/reference"
	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/failure"
)

const (
	dockerHub = "docker.io"
	// dockerHubServer is where the registry of that name really is.
	dockerHubServer = "registry-1.docker.io"
)

// imageReference is a reference taken apart.
type imageReference struct {
	// registry is as the user names it, server the host:port to ask.
	registry, server string
	repository       string
	// version is a tag or a digest; digest is empty for a tag.
	version string
	digest  digest.Digest
}

func parseReference(text string) (imageReference, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return imageReference{}, failure.Terminalf(ReasonInvalidReference, "%q is no reference of an image: %v", text, err)
	}
	ref := imageReference{registry: reference.Domain(named), repository: reference.Path(named)}
	ref.server = ref.registry
	if ref.registry == dockerHub {
		ref.server = dockerHubServer
	}
	if fixed, ok := named.(reference.Digested); ok {
		ref.digest = fixed.Digest()
		ref.version = ref.digest.String()
		return ref, nil
	}
	tagged, ok := reference.TagNameOnly(named).(reference.Tagged)
	if !ok {
		return imageReference{}, failure.Terminalf(ReasonInvalidReference, "%q names no tag", text)
	}
	ref.version = tagged.Tag()
	return ref, nil
}

// mayBePlain reports a registry that may do without TLS: one on this machine.
func (r imageReference) mayBePlain() bool {
	host, _, err := net.SplitHostPort(r.server)
	if err != nil {
		host = r.server
	}
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

func (r imageReference) url(scheme, kind, what string) *url.URL {
	return &url.URL{Scheme: scheme, Host: r.server, Path: "/v2/" + r.repository + "/" + kind + "/" + what}
}
