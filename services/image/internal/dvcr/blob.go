package dvcr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/failure"
)

// HasBlob reports whether the blob is in the repository.
func (p *Repository) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	said, err := p.call(ctx, http.MethodHead, p.url("blobs/"+d.String(), nil), http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	return said.status == http.StatusOK, nil
}

// Mount makes a blob of another repository one of this one's, moving no data.
// ReasonNotFound says that the other repository has no such blob.
func (p *Repository) Mount(ctx context.Context, from *Repository, d digest.Digest) error {
	query := url.Values{"mount": {d.String()}, "from": {from.name}}
	said, err := p.call(ctx, http.MethodPost, p.url("blobs/uploads/", query), http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return err
	}
	if said.status == http.StatusCreated {
		return nil
	}
	// The registry began an upload instead.
	u := &Upload{repository: p}
	if err := u.move(said); err != nil {
		return err
	}
	return errors.Join(
		failure.Temporaryf(ReasonNotFound, nil, "%s has no blob %s", from.name, d),
		u.Cancel(ctx))
}

// Release says that a blob isn't wanted in the repository for now, so that a
// collector needn't wait for a manifest that names it. It must not be in use by
// an artifact there. One that isn't there is no error.
func (p *Repository) Release(ctx context.Context, d digest.Digest) error {
	_, err := p.call(ctx, http.MethodDelete, p.url("blobs/"+d.String(), nil),
		http.StatusAccepted, http.StatusNotFound, http.StatusMethodNotAllowed)
	return err
}

// Open returns a reader of a blob: of its file where the registry's are on this
// machine, else by ranged requests, one for each ReadAt. ctx bounds all of them.
// It doesn't connect.
func (p *Repository) Open(ctx context.Context, b Blob) io.ReaderAt {
	return &blobReader{ctx: ctx, repository: p, blob: b}
}

type blobReader struct {
	ctx        context.Context
	repository *Repository
	blob       Blob
}

// ReadAt implements io.ReaderAt.
func (b *blobReader) ReadAt(buf []byte, offset int64) (int, error) {
	if offset < 0 || offset >= b.blob.Size {
		return 0, io.EOF
	}
	want := buf[:min(int64(len(buf)), b.blob.Size-offset)]
	if len(want) == 0 {
		return 0, nil
	}
	n, here, err := b.readLocal(want, offset)
	if !here {
		n, err = b.fetch(want, offset)
	}
	if err == nil && n < len(buf) {
		err = io.EOF
	}
	return n, err
}

func (b *blobReader) fetch(buf []byte, offset int64) (int, error) {
	ctx, cancel := context.WithTimeout(b.ctx, shortWait)
	defer cancel()
	registry := b.repository.registry
	request, err := registry.request(ctx, http.MethodGet, b.repository.url("blobs/"+b.blob.Digest.String(), nil), nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+int64(len(buf))-1))
	response, err := registry.client.Do(request)
	if err != nil {
		return 0, unreachable(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusPartialContent {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
		return 0, refusal(response.StatusCode, text)
	}
	n, err := io.ReadFull(response.Body, buf)
	if err != nil {
		return n, unreachable(ctx, err)
	}
	return n, nil
}
