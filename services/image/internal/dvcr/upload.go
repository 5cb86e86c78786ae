package dvcr

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/failure"
)

// Blob is the content of a layer.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// Checkpoint is what another process needs to go on with an upload. Location
// carries the right to write to it: keep it like a secret.
type Checkpoint struct {
	Location string `json:"location"`
	// Offset counts the bytes that the registry has for certain and that
	// HashState is the hash of.
	Offset    int64  `json:"offset"`
	HashState []byte `json:"hashState"`
}

// Upload is a blob on its way into a repository. It is for one goroutine.
//
// No byte is kept for a second try: after a failed Append the upload is dead,
// and the caller goes on as after a kill, with Resume from the last Checkpoint
// and a source that starts again at its Offset.
type Upload struct {
	repository *Repository
	location   string
	offset     int64
	hash       hash.Hash
	// ahead is how much more than the checkpoint's the registry turned out to
	// have: read again for the hash, not sent.
	ahead int64
}

// Start begins an upload.
func (p *Repository) Start(ctx context.Context) (*Upload, error) {
	said, err := p.call(ctx, http.MethodPost, p.url("blobs/uploads/", nil), http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	u := &Upload{repository: p, hash: sha256.New()}
	return u, u.move(said)
}

// Resume goes on with an upload. ReasonUploadLost says that the registry has it
// no more, or less of it than the checkpoint says: start again.
func (p *Repository) Resume(ctx context.Context, c Checkpoint) (*Upload, error) {
	u := &Upload{repository: p, location: c.Location, offset: c.Offset, hash: sha256.New()}
	if err := u.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(c.HashState); err != nil {
		return nil, lost("its checkpoint can't be read")
	}
	said, err := p.call(ctx, http.MethodGet, p.registry.absolute(c.Location), http.StatusNoContent)
	if reason := failure.ReasonOf(err); reason == ReasonNotFound || reason == ReasonRefused {
		return nil, lost(err.Error())
	}
	if err != nil {
		return nil, err
	}
	has, err := received(said)
	if err != nil {
		return nil, err
	}
	if has < c.Offset {
		return nil, lost(fmt.Sprintf("it has %d bytes of %d", has, c.Offset))
	}
	if err := u.move(said); err != nil {
		return nil, err
	}
	if dir := u.folder(); dir != "" {
		return u, rewind(dir, c.Offset)
	}
	u.ahead = has - c.Offset
	return u, nil
}

func lost(why string) error {
	return failure.Temporaryf(ReasonUploadLost, nil, "the registry lost the upload: %s", why)
}

// received reads the range of an answer, the last byte of which is inclusive.
// "0-0" stands for nothing, too; that one byte can be sent again.
func received(said answer) (int64, error) {
	_, last, _ := strings.Cut(said.header.Get("Range"), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n < 0 {
		return 0, failure.Temporaryf(ReasonRefused, nil, "the registry doesn't say how much it has")
	}
	if n == 0 {
		return 0, nil
	}
	return n + 1, nil
}

// move takes the location that an answer names for the next request.
func (u *Upload) move(said answer) error {
	if said.location == nil {
		return failure.Temporaryf(ReasonRefused, nil, "the registry named no location for the upload")
	}
	// Without the server, which may be elsewhere after a restart.
	u.location = said.location.RequestURI()
	if said.location.Host != u.repository.registry.base.Host {
		return failure.Temporaryf(ReasonRefused, nil, "the registry points to another server, %s", said.location.Host)
	}
	return nil
}

// Offset returns how many bytes are in the blob: what the source must give next.
func (u *Upload) Offset() int64 { return u.offset }

// Checkpoint returns the state to resume from. It is right after Start, Resume
// and each Append that succeeded.
func (u *Upload) Checkpoint() (Checkpoint, error) {
	state, err := u.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return Checkpoint{}, err
	}
	return Checkpoint{Location: u.location, Offset: u.offset, HashState: state}, nil
}

// Append moves at most n bytes of r into the upload and returns when they are on
// the registry's disk. It returns io.EOF when r has ended. Errors of r
// pass as they are.
func (u *Upload) Append(ctx context.Context, r io.Reader, n int64) error {
	if err := u.catchUp(r); err != nil {
		return err
	}
	if dir := u.folder(); dir != "" {
		return u.write(ctx, dir, r, n)
	}
	return u.send(ctx, r, n)
}

// send is Append by a request.
func (u *Upload) send(ctx context.Context, r io.Reader, n int64) error {
	first := make([]byte, 32<<10)
	got, err := io.ReadAtLeast(r, first[:min(n, int64(len(first)))], 1)
	if got == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body := &uploadBody{
		first: first[:got], r: io.LimitReader(r, n-int64(got)), hash: u.hash,
		stall: u.repository.registry.options.Stall, cancel: cancel,
	}
	said, err := u.patch(ctx, body)
	sent, ended := body.finish()
	if body.err != nil {
		return body.err
	}
	if err != nil {
		return err
	}
	has, err := received(said)
	if err != nil {
		return err
	}
	if has > 0 && has != u.offset+sent {
		return failure.Temporaryf(ReasonRefused, nil, "the registry has %d bytes of the %d sent", has, u.offset+sent)
	}
	u.offset += sent
	if err := u.move(said); err != nil {
		return err
	}
	if ended && sent < n {
		return io.EOF
	}
	return nil
}

// catchUp reads for the hash what the registry has already.
func (u *Upload) catchUp(r io.Reader) error {
	n, err := io.CopyN(u.hash, r, u.ahead)
	u.ahead -= n
	u.offset += n
	if errors.Is(err, io.EOF) {
		return lost("it has more than its source")
	}
	return err
}

func (u *Upload) patch(ctx context.Context, body *uploadBody) (answer, error) {
	request, err := u.repository.registry.request(ctx, http.MethodPatch, u.repository.registry.absolute(u.location), body)
	if err != nil {
		return answer{}, err
	}
	// Unknown length: chunked encoding, and the registry holds the offset
	// against the one in the location's token.
	request.Header.Set("Content-Type", "application/octet-stream")
	said, err := u.repository.registry.do(request, http.StatusAccepted)
	if err != nil && body.stalled.Load() {
		return answer{}, failure.Temporaryf(ReasonUnavailable, nil, "the registry took nothing for %v", body.stall)
	}
	return said, err
}

// Digest returns what Commit will name the blob.
func (u *Upload) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, u.hash) }

// Commit ends the upload; the blob is then in the repository, until the
// registry's garbage collection finds no manifest that names it.
func (u *Upload) Commit(ctx context.Context) (Blob, error) {
	blob := Blob{Digest: u.Digest(), Size: u.offset}
	if dir := u.folder(); dir != "" {
		if err := u.present(ctx, dir); err != nil {
			return Blob{}, err
		}
	}
	target, err := url.Parse(u.repository.registry.absolute(u.location))
	if err != nil {
		return Blob{}, failure.Temporaryf(ReasonRefused, nil, "the registry gave a location that can't be requested")
	}
	query := target.Query()
	query.Set("digest", blob.Digest.String())
	target.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	request, err := u.repository.registry.request(ctx, http.MethodPut, target.String(), nil)
	if err != nil {
		return Blob{}, err
	}
	_, err = u.repository.registry.do(request, http.StatusCreated)
	return blob, err
}

// Cancel drops the upload and frees its space. It is for uploads that failed
// for good.
func (u *Upload) Cancel(ctx context.Context) error {
	return u.repository.Cancel(ctx, Checkpoint{Location: u.location})
}

// cancelTries bounds how often an upload is cancelled of which the registry still
// stores what was on its way when the sender left: some seconds.
const cancelTries = 8

// Cancel drops the upload of a checkpoint; one that is gone already is no error.
func (p *Repository) Cancel(ctx context.Context, c Checkpoint) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := p.cancel(ctx, c)
		if err != nil && failure.ReasonOf(err) != ReasonUploadMoved {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxTries(cancelTries), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: time.Second,
	}))
	return err
}

// cancel is one try of Cancel. The registry deletes only at its present offset,
// so that is asked first.
func (p *Repository) cancel(ctx context.Context, c Checkpoint) error {
	u := &Upload{repository: p, location: c.Location}
	if dir := u.folder(); dir != "" {
		// Where no space is left the registry can't even answer.
		if err := rewind(dir, 0); err != nil && failure.ReasonOf(err) != ReasonUploadLost {
			return err
		}
	}
	said, err := p.call(ctx, http.MethodGet, p.registry.absolute(c.Location), http.StatusNoContent, http.StatusNotFound)
	if err != nil || said.status == http.StatusNotFound {
		return err
	}
	if said.location == nil {
		return failure.Temporaryf(ReasonRefused, nil, "the registry named no location for the upload")
	}
	_, err = p.call(ctx, http.MethodDelete, said.location.String(), http.StatusNoContent, http.StatusNotFound)
	return err
}
