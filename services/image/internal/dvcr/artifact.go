package dvcr

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/distribution/reference"
	"github.com/docker/distribution/registry/api/errcode"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"orlop.dev/services/image/internal/failure"
)

// The form of an image in the registry.
const (
	// ArtifactType is the manifest's type.
	ArtifactType = "application/vnd.orlop.image.v1"
	// LayerTypePrefix, with a format behind it, is the type of the one layer,
	// which is the disk file itself: no archive, no compression.
	LayerTypePrefix = "application/vnd.orlop.disk.v1+"

	annotationVirtualBytes = "dev.orlop.disk.virtual-bytes"
	annotationCDROM        = "dev.orlop.disk.cdrom"
	annotationSourceUID    = "dev.orlop.disk.source-uid"
)

// Artifact is an image in the registry.
type Artifact struct {
	Disk Blob
	// Format is the disk file's, such as "qcow2".
	Format string
	// VirtualBytes is the size of the disk as a guest sees it.
	VirtualBytes int64
	// CDROM is set for images that a guest sees as an optical disc.
	CDROM bool
	// SourceUID is of the object that the image was made from, empty where it was
	// none.
	SourceUID string
}

// MediaType returns the type of the artifact's layer.
func (a Artifact) MediaType() string { return LayerTypePrefix + a.Format }

// manifest is the artifact's document. The same artifact gives the same bytes.
func (a Artifact) manifest() ([]byte, error) {
	annotations := map[string]string{
		annotationVirtualBytes: strconv.FormatInt(a.VirtualBytes, 10),
		annotationCDROM:        strconv.FormatBool(a.CDROM),
	}
	if a.SourceUID != "" {
		annotations[annotationSourceUID] = a.SourceUID
	}
	empty := v1.DescriptorEmptyJSON
	empty.Data = nil // the blob is there; some readers don't know inline data
	return json.Marshal(v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
		Config:       empty,
		Layers: []v1.Descriptor{{
			MediaType:   a.MediaType(),
			Digest:      a.Disk.Digest,
			Size:        a.Disk.Size,
			Annotations: annotations,
		}},
	})
}

func parseArtifact(text []byte) (Artifact, error) {
	var m v1.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Artifact{}, notAnImage("its manifest can't be parsed")
	}
	if len(m.Layers) != 1 {
		return Artifact{}, notAnImage("its manifest has %d layers", len(m.Layers))
	}
	layer := m.Layers[0]
	format, found := strings.CutPrefix(layer.MediaType, LayerTypePrefix)
	virtual, err := strconv.ParseInt(layer.Annotations[annotationVirtualBytes], 10, 64)
	if !found || err != nil || layer.Digest.Validate() != nil {
		return Artifact{}, notAnImage("its layer is of type %s", layer.MediaType)
	}
	return Artifact{
		Disk:         Blob{Digest: layer.Digest, Size: layer.Size},
		Format:       format,
		VirtualBytes: virtual,
		CDROM:        layer.Annotations[annotationCDROM] == "true",
		SourceUID:    layer.Annotations[annotationSourceUID],
	}, nil
}

func notAnImage(format string, args ...any) error {
	return failure.Terminalf(ReasonNotAnImage, "the artifact is no disk image of ours: "+format, args...)
}

// reference names a manifest for containers/image.
func (p *Repository) reference(tag string) (types.ImageReference, error) {
	tagged, err := reference.WithTag(p.named, tag)
	if err != nil {
		return nil, fmt.Errorf("dvcr: tag %q: %w", tag, err)
	}
	return docker.NewReference(tagged)
}

// Push publishes an artifact, whose blob must be in the repository, under a
// tag, and returns the manifest's digest. It may be repeated.
func (p *Repository) Push(ctx context.Context, tag string, a Artifact) (digest.Digest, error) {
	text, err := a.manifest()
	if err != nil {
		return "", err
	}
	ref, err := p.reference(tag)
	if err != nil {
		return "", err
	}
	destination, err := ref.NewImageDestination(ctx, p.registry.system)
	if err != nil {
		return "", classify(ctx, err)
	}
	defer destination.Close()
	empty := v1.DescriptorEmptyJSON
	config := types.BlobInfo{Digest: empty.Digest, Size: empty.Size, MediaType: empty.MediaType}
	if _, err := destination.PutBlob(ctx, bytes.NewReader(empty.Data), config, none.NoCache, true); err != nil {
		return "", classify(ctx, err)
	}
	if err := destination.PutManifest(ctx, text, nil); err != nil {
		return "", classify(ctx, err)
	}
	return digest.FromBytes(text), nil
}

// Get reads the artifact under a tag and its manifest's digest. ReasonNotFound
// says that there is none.
func (p *Repository) Get(ctx context.Context, tag string) (Artifact, digest.Digest, error) {
	ref, err := p.reference(tag)
	if err != nil {
		return Artifact{}, "", err
	}
	from, err := ref.NewImageSource(ctx, p.registry.system)
	if err != nil {
		return Artifact{}, "", classify(ctx, err)
	}
	defer from.Close()
	text, _, err := from.GetManifest(ctx, nil)
	if err != nil {
		return Artifact{}, "", classify(ctx, err)
	}
	a, err := parseArtifact(text)
	return a, digest.FromBytes(text), err
}

// classify turns an error of containers/image into a failure.
func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := errors.AsType[docker.ErrUnauthorizedForCredentials](err); ok {
		return failure.Temporaryf(ReasonDenied, nil, "the registry refuses the credentials")
	}
	if status, ok := errors.AsType[docker.UnexpectedHTTPStatusError](err); ok {
		return refusal(status.StatusCode, nil)
	}
	if coded, ok := errors.AsType[errcode.Error](err); ok {
		return refusal(coded.Code.Descriptor().HTTPStatusCode, nil)
	}
	return unreachable(ctx, err)
}

// Delete takes the tag away; the space comes back when the registry collects
// its garbage. A tag that isn't there is no error.
func (p *Repository) Delete(ctx context.Context, tag string) error {
	_, err := p.call(ctx, http.MethodDelete, p.url("manifests/"+tag, nil), http.StatusAccepted, http.StatusNotFound)
	return err
}

// DeleteManifest takes a manifest away with all its tags. One that isn't there
// is no error.
func (p *Repository) DeleteManifest(ctx context.Context, d digest.Digest) error {
	_, err := p.call(ctx, http.MethodDelete, p.url("manifests/"+d.String(), nil), http.StatusAccepted, http.StatusNotFound)
	return err
}
