package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
)

const (
	// uploadPieceBytes goes in a message.
	uploadPieceBytes = 256 << 10
	stoppedTimeout   = 2 * time.Second
)

// errOtherFile says that another file was begun.
var errOtherFile = errors.New("the upload of another file was begun: --restart sends this one from its start")

// sending is the way of a file to the service, over as many connections as it
// takes.
type sending struct {
	*uploading
	token string
	bar   *bar
	kept  int64 // what the service is known to have
}

// run sends what the service hasn't got, until it has all or can't go on.
func (s *sending) run(ctx context.Context) error {
	t := transfer{
		bar: s.bar, timeout: s.timeout, attempt: s.attempt, passes: passes,
		bytes: func() int64 { return s.kept },
	}
	return t.run(ctx)
}

// passes reports failures that may pass by themselves.
func passes(err error) bool { return fault.Is(err, fault.Transient, fault.Stale) }

// attempt sends over one connection.
func (s *sending) attempt(ctx context.Context) (complete bool, err error) {
	state, err := s.service.GetUpload(ctx, &imagev1.GetUploadRequest{Token: s.token})
	if err != nil {
		return false, err
	}
	if state.GetState() == imagev1.UploadState_Complete {
		return true, nil
	}
	if !s.restart && state.Length != nil && state.GetLength() != s.file.bytes {
		return false, errOtherFile
	}
	state, err = s.service.BeginUpload(ctx, &imagev1.BeginUploadRequest{Token: s.token, Length: &s.file.bytes, Restart: s.restart})
	if err != nil {
		return false, err
	}
	s.restart, s.kept = false, state.GetOffset()
	state, err = s.write(ctx, s.kept)
	if err != nil {
		return false, err
	}
	s.kept = state.GetOffset()
	return state.GetState() == imagev1.UploadState_Complete, nil
}

// write sends the rest of the file.
func (s *sending) write(ctx context.Context, offset int64) (*imagev1.Upload, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.service.WriteUpload(ctx)
	if err != nil {
		return nil, err
	}
	message := &imagev1.WriteUploadRequest{Token: s.token, Offset: offset}
	for rest := io.NewSectionReader(s.file, offset, s.file.bytes-offset); ; message = (&imagev1.WriteUploadRequest{}) {
		// A message isn't to be changed after it was sent, so neither is its data.
		piece := make([]byte, min(uploadPieceBytes, s.file.bytes-offset))
		n, err := io.ReadFull(rest, piece)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has become shorter: %w", s.file.Name(), err)
		}
		message.Data = piece[:n]
		if stream.Send(message) != nil {
			break // the answer says why
		}
		offset += int64(n)
		s.bar.show(offset, s.file.bytes)
		if offset == s.file.bytes {
			break
		}
	}
	return stream.CloseAndRecv()
}

// explain says what to do about an upload that ended early.
func (s *sending) explain(ctx context.Context, err error) error {
	if fault.Is(err, fault.NotFound) {
		// The token is of no use any more: the object says why.
		if status, lost := s.target.look(ctx); lost == nil && status.failure() != nil {
			return status.failure()
		}
	}
	if ctx.Err() != nil {
		return s.stopped(ctx)
	}
	return err
}

// stopped asks how much is kept of an upload that the user stopped.
func (s *sending) stopped(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stoppedTimeout)
	defer cancel()
	e := &stoppedError{kept: s.kept, bytes: s.file.bytes}
	// Where nobody answers, less is known than is kept.
	if state, err := s.service.GetUpload(ctx, &imagev1.GetUploadRequest{Token: s.token}); err == nil {
		e.kept = max(e.kept, state.GetOffset())
	}
	return e
}

// stoppedError is an upload that the user stopped.
type stoppedError struct{ kept, bytes int64 }

func (e *stoppedError) Error() string {
	return fmt.Sprintf("stopped: %s of %s have arrived for sure; the same command goes on", binary(e.kept), binary(e.bytes))
}

// Unwrap says what kind of end it is.
func (e *stoppedError) Unwrap() error { return context.Canceled }
