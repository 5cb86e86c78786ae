package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
)

const (
	// pieceBytes is what is sent to the service at a time: small enough to come
	// by slow lines, too.
	pieceBytes = 128 << 10
	// settleTimeout bounds the wait for the service to make durable what it has.
	settleTimeout = time.Minute
	// bodyTimeout is how long a sender may be silent.
	bodyTimeout = time.Minute
)

// send passes the body of a request on to the service. What has arrived before a
// sender left is kept.
func (u *uploads) send(w http.ResponseWriter, r *http.Request, token string, offset int64) (*imagev1.Upload, error) {
	// A sender that leaves ends the body, and that the stream, in good order: what
	// was sent must not be lost on the way.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	stream, err := u.client.WriteUpload(ctx)
	if err != nil {
		return nil, err
	}
	body := &boundedBody{ctx: u.ctx, body: r.Body, control: http.NewResponseController(w)}
	defer context.AfterFunc(u.ctx, body.cut)()
	broken := pass(body, stream, &imagev1.WriteUploadRequest{Token: token, Offset: offset})
	body.release()
	defer time.AfterFunc(settleTimeout, cancel).Stop()
	state, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	return state, broken
}

// pass sends a body piece by piece, and returns why it could not be read to its
// end. Where the service has enough of it, its answer says why.
func pass(body io.Reader, stream imagev1.UploadService_WriteUploadClient, message *imagev1.WriteUploadRequest) error {
	for {
		// A message isn't to be changed after it was sent, so neither is its data.
		piece := make([]byte, pieceBytes)
		n, ended, broken := fill(body, piece)
		message.Data = piece[:n]
		if refused := stream.Send(message) != nil; refused || ended || broken != nil {
			return broken
		}
		message = &imagev1.WriteUploadRequest{}
	}
}

// fill reads until a piece is full or there is no more. Unlike io.ReadFull it
// tells an end from a break.
func fill(r io.Reader, piece []byte) (n int, ended bool, err error) {
	for n < len(piece) && err == nil {
		var more int
		more, err = r.Read(piece[n:])
		n += more
	}
	if errors.Is(err, io.EOF) {
		return n, true, nil
	}
	return n, false, err
}

// boundedBody is a body whose sender must not be silent for long, and which ends
// with a context.
type boundedBody struct {
	ctx     context.Context
	body    io.Reader
	control *http.ResponseController
}

// cut ends a Read under way. It fails only where the connection is gone.
func (b *boundedBody) cut() { _ = b.control.SetReadDeadline(time.Unix(1, 0)) }

// release lets the sender wait for the answer as long as it likes.
func (b *boundedBody) release() { _ = b.control.SetReadDeadline(time.Time{}) }

func (b *boundedBody) Read(p []byte) (int, error) {
	if err := b.control.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return 0, err
	}
	// In this order: an end after the check cuts the deadline short.
	if b.ctx.Err() != nil {
		return 0, errEnding()
	}
	n, err := b.body.Read(p)
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return n, err
	case b.ctx.Err() != nil:
		return n, errEnding()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, &statusError{http.StatusRequestTimeout,
			fault.New(fault.Transient, "RequestTimeout", "no byte has come for %s: go on where the upload is", bodyTimeout)}
	}
	return n, fault.Wrap(err, fault.Transient, "BodyNotRead", "the body broke off: go on where the upload is")
}

func errEnding() error {
	return fault.New(fault.Transient, "ServerStopping", "the server is stopping: go on where the upload is")
}
