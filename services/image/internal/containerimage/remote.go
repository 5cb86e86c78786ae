package containerimage

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containers/image/v5/manifest"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

const (
	// maxManifestBytes is what registries are asked to take at least.
	maxManifestBytes = 4 << 20
	maxLayers        = 256
	// encryptedSuffix ends the types of layers that only a key can read.
	encryptedSuffix = "+encrypted"
)

// remote is one repository of a registry.
type remote struct {
	options Options
	ref     imageReference
	login   *login
	scheme  string
}

func newRemote(o Options, ref imageReference, keys Keychain) *remote {
	return &remote{
		options: o, ref: ref, scheme: "https",
		login: &login{host: ref.server, repository: ref.repository, key: keys.find(ref.registry, ref.repository)},
	}
}

// open reads what is at a URL of the repository, or where that leads to.
func (r *remote) open(ctx context.Context, target *url.URL) (*source.Reader, error) {
	o := r.options.HTTP
	o.URL = target.String()
	o.Wrap = func(next http.RoundTripper) http.RoundTripper { return &authorized{login: r.login, next: next} }
	return source.Open(ctx, o)
}

// layers returns the image's layers, the lowest first.
func (r *remote) layers(ctx context.Context) ([]layer, error) {
	text, err := r.manifest(ctx, r.ref.version, r.ref.digest)
	if errors.Is(err, http.ErrSchemeMismatch) && r.ref.mayBePlain() {
		r.scheme = "http"
		text, err = r.manifest(ctx, r.ref.version, r.ref.digest)
	}
	if err != nil {
		return nil, err
	}
	if kind := manifest.GuessMIMEType(text); manifest.MIMETypeIsMultiImage(kind) {
		if text, err = r.instance(ctx, text, kind); err != nil {
			return nil, err
		}
	}
	return layersOf(text)
}

// instance reads the manifest of a list that is for the guests' platform.
func (r *remote) instance(ctx context.Context, text []byte, kind string) ([]byte, error) {
	list, err := manifest.ListFromBlob(text, kind)
	if err != nil {
		return nil, unusable(err)
	}
	chosen, err := list.ChooseInstance(&types.SystemContext{OSChoice: "linux", ArchitectureChoice: "amd64"})
	if err != nil {
		return nil, failure.Terminalf(ReasonPlatform, "the image has nothing for linux/amd64")
	}
	return r.manifest(ctx, chosen.String(), chosen)
}

func (r *remote) manifest(ctx context.Context, version string, want digest.Digest) ([]byte, error) {
	reader, err := r.open(ctx, r.ref.url(r.scheme, "manifests", version))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	text, err := io.ReadAll(io.LimitReader(reader, maxManifestBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxManifestBytes:
		return nil, failure.Terminalf(ReasonManifest, "the image's manifest is larger than %d bytes", maxManifestBytes)
	case want == "":
		return text, nil
	}
	if same, err := manifest.MatchesDigest(text, want); err != nil || !same {
		return nil, failure.Terminalf(ReasonDigest, "the image's manifest isn't what its digest says")
	}
	return text, nil
}

func layersOf(text []byte) ([]layer, error) {
	kind := manifest.GuessMIMEType(text)
	if kind != manifest.DockerV2Schema2MediaType && kind != v1.MediaTypeImageManifest {
		return nil, failure.Terminalf(ReasonManifest, "the image's manifest is of type %q; OCI images and Docker's of version 2 are supported", kind)
	}
	parsed, err := manifest.FromBlob(text, kind)
	if err != nil {
		return nil, unusable(err)
	}
	infos := parsed.LayerInfos()
	if len(infos) > maxLayers {
		return nil, failure.Terminalf(ReasonManifest, "the image has %d layers; at most %d are read", len(infos), maxLayers)
	}
	layers := make([]layer, len(infos))
	for i, info := range infos {
		if info.Digest.Validate() != nil || info.Size < 0 || strings.HasSuffix(info.MediaType, encryptedSuffix) {
			return nil, failure.Terminalf(ReasonManifest, "layer %d of the image, of type %q, can't be read", i, info.MediaType)
		}
		layers[i] = layer{digest: info.Digest, bytes: info.Size, bare: isBare(info.MediaType)}
	}
	if len(layers) > 1 && slices.ContainsFunc(layers, func(l layer) bool { return l.bare }) {
		return nil, failure.Terminalf(ReasonManifest, "the image has a bare disk as one of %d layers", len(layers))
	}
	return layers, nil
}

func unusable(err error) error {
	return &failure.Error{Class: failure.Terminal, Reason: ReasonManifest, Message: "the image's manifest can't be parsed", Cause: err}
}

// blob is a layer being read. Its bytes are what its digest says once Read has
// returned io.EOF.
type blob struct {
	layer
	reader *source.Reader
	sum    digest.Verifier
	left   int64
}

func (r *remote) blob(ctx context.Context, l layer) (*blob, error) {
	reader, err := r.open(ctx, r.ref.url(r.scheme, "blobs", l.digest.String()))
	if err != nil {
		return nil, err
	}
	return &blob{layer: l, reader: reader, sum: l.digest.Verifier(), left: l.bytes}, nil
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	n, err := b.reader.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, failure.Terminalf(ReasonDigest, "a layer of the image is longer than its manifest says")
	}
	_, _ = b.sum.Write(p[:n]) // a hash takes all
	if errors.Is(err, io.EOF) && (b.left != 0 || !b.sum.Verified()) {
		return n, failure.Terminalf(ReasonDigest, "a layer of the image isn't what its digest says")
	}
	return n, err
}

func (b *blob) close() { b.reader.Close() }
