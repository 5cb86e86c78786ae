// Package containerimage reads the disk out of a registry's image: the one file
// below /disk/ in its layers, or the layer itself where that is a bare disk.
//
// It owns references, manifests, layers and the way to log in. Connections, their
// policy and their retries are package source's, so that no registry is reached
// by another rule than a web server. It must not know what the disk's bytes mean.
package containerimage

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// Why an image is no source, beside the reasons of package source.
const (
	ReasonInvalidReference failure.Reason = "InvalidImageReference"
	ReasonInvalidSecret    failure.Reason = "InvalidPullSecret"
	ReasonManifest         failure.Reason = "ImageManifestUnusable"
	ReasonPlatform         failure.Reason = "ImageHasNoSuchPlatform"
	ReasonLayer            failure.Reason = "ImageLayerUnusable"
	ReasonDigest           failure.Reason = "ImageDigestMismatch"
	ReasonNoDisk           failure.Reason = "ImageHasNoDisk"
	ReasonTwoDisks         failure.Reason = "ImageHasTwoDisks"
	ReasonNotAFile         failure.Reason = "ImageDiskIsNoFile"
	ReasonPath             failure.Reason = "ImagePathRefused"
)

// Options say which image, and how to reach its registry.
type Options struct {
	// Image is a reference as users write it: registry/name:tag or @digest.
	Image string
	// HTTP has the policy, the authorities to trust, and the retries. Its URL is
	// not used.
	HTTP source.Options
	// Keychain finds credentials, each time that the image is opened; nil means
	// none. Failures pass as they are.
	Keychain func(context.Context) (Keychain, error)
	// MaxBytes bounds what a layer unpacks to.
	MaxBytes int64
}

// PullError marks a failure as one of the registry or the image, so that it can
// be told from those of the disk in it.
type PullError struct{ cause error }

func (e *PullError) Error() string { return e.cause.Error() }

// Unwrap returns the failure.
func (e *PullError) Unwrap() error { return e.cause }

// Source is an importer.Source. What it gives can't be resumed in another
// process, as a layer is only known to be whole from its first byte on; broken
// connections are resumed.
type Source struct{ options Options }

// New makes a source. It doesn't connect.
func New(o Options) *Source { return &Source{options: o} }

// Open implements importer.Source. It reads up to the disk, so that an image
// without one is refused here; one with two is refused by the last Read.
func (s *Source) Open(ctx context.Context, offset int64, _ source.Validator) (importer.Stream, error) {
	if offset > 0 {
		return nil, failure.Temporaryf(source.ReasonCannotBeResumed, nil, "an image of a registry is read from its start")
	}
	disk, err := s.open(ctx)
	if err != nil {
		return nil, pulling(ctx, err)
	}
	return disk, nil
}

func (s *Source) open(ctx context.Context) (*stream, error) {
	ref, err := parseReference(s.options.Image)
	if err != nil {
		return nil, err
	}
	var keys Keychain
	if s.options.Keychain != nil {
		if keys, err = s.options.Keychain(ctx); err != nil {
			return nil, err
		}
	}
	r := newRemote(s.options, ref, keys)
	layers, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	disk := &disk{layers: layers, open: func(l layer) (*blob, error) { return r.blob(ctx, l) }, limit: s.options.MaxBytes}
	if err := disk.find(); err != nil {
		disk.close()
		return nil, err
	}
	return &stream{ctx: ctx, disk: disk}, nil
}

// pulling marks a failure; the caller's own end is none.
func pulling(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &PullError{cause: err}
}

// layer is a part of an image.
type layer struct {
	digest digest.Digest
	// bytes is its size as it is stored.
	bytes int64
	// bare says that it is a disk itself.
	bare bool
}

// isBare reports the type of a layer of DVCR's own artifacts.
func isBare(mediaType string) bool {
	format, ours := strings.CutPrefix(mediaType, dvcr.LayerTypePrefix)
	return ours && format != ""
}

// stream is the disk as an importer.Stream.
type stream struct {
	ctx  context.Context
	disk *disk
}

// Size implements importer.Stream: an archive tells it before the file.
func (s *stream) Size() int64 { return s.disk.bytes }

// Validator implements importer.Stream.
func (s *stream) Validator() source.Validator { return source.Validator{} }

// Close ends the connection.
func (s *stream) Close() error {
	s.disk.close()
	return nil
}

// Read implements io.Reader. io.EOF means that the image is whole, and that the
// disk is its only one.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.disk.read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, pulling(s.ctx, err)
}
