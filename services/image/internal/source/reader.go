package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"orlop.dev/services/image/internal/failure"
)

// Reader reads a file in order. It is for one goroutine.
type Reader struct {
	ctx     context.Context
	client  *http.Client
	target  *url.URL
	options Options

	offset    int64 // of the next byte
	size      int64 // of the whole file; -1 while unknown
	validator Validator
	budget    *budget

	body *body // nil between connections
	err  error // sticky
}

// Size returns the size of the whole file in bytes, or -1 if the server doesn't
// tell. It is known from Open on, or never.
func (r *Reader) Size() int64 { return r.size }

// Offset returns the position of the next byte in the file.
func (r *Reader) Offset() int64 { return r.offset }

// Validator returns what to pass with an offset to continue later.
func (r *Reader) Validator() Validator { return r.validator }

// Close ends the connection.
func (r *Reader) Close() error {
	r.drop()
	r.client.CloseIdleConnections()
	return nil
}

func (r *Reader) drop() {
	if r.body != nil {
		r.body.close()
		r.body = nil
	}
}

// Read implements io.Reader. It blocks through reconnections; io.EOF means that
// the file is complete as far as its server told its length.
func (r *Reader) Read(p []byte) (int, error) {
	for r.err == nil && len(p) > 0 {
		n, err := r.readBody(p)
		r.offset += int64(n)
		r.budget.reached(r.offset)
		if err != nil {
			r.err = r.recover(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

func (r *Reader) readBody(p []byte) (int, error) {
	if r.size >= 0 {
		left := r.size - r.offset
		if left == 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), left)]
	}
	return r.body.read(p)
}

// recover decides what the end of a body means, and reconnects if the file is
// not whole. It returns the error for the next Read, nil to go on.
func (r *Reader) recover(err error) error {
	r.drop()
	if errors.Is(err, io.EOF) && (r.size < 0 || r.offset == r.size) {
		return io.EOF
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if r.validator.IsZero() {
		return failure.Temporaryf(ReasonCannotBeResumed, plain(err),
			"the connection to %s broke at byte %d, and its server can't resume", display(r.target), r.offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		r.budget.shorted++
	}
	return r.connectWithRetry(r.interrupted(err))
}

// interrupted classifies the end of a body before the end of the file.
func (r *Reader) interrupted(err error) error {
	if failure.ReasonOf(err) != "" {
		return err
	}
	return failure.Temporaryf(ReasonUnavailable, plain(err),
		"the connection to %s broke at byte %d", display(r.target), r.offset)
}

// connectWithRetry connects until it holds a body, the failure is one that
// stays, or the budget is used up. before is the failure that led here, nil at
// first.
func (r *Reader) connectWithRetry(before error) error {
	last, asked := before, time.Duration(0)
	for {
		if last != nil {
			ok, err := r.budget.spend(r.ctx, asked)
			if err != nil {
				return err
			}
			if !ok {
				return r.exhausted(last)
			}
		}
		asked, last = r.connect()
		if last == nil {
			return nil
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if failure.IsTerminal(last) || failure.ReasonOf(last) == ReasonCannotBeResumed {
			return last
		}
	}
}

// exhausted turns the last of many failures into the final one. If every
// attempt was answered and cut short in the same place, the promised length is
// wrong, and no later attempt will differ.
func (r *Reader) exhausted(last error) error {
	if r.budget.shorted > r.budget.retry.Attempts {
		return failure.Terminalf(ReasonLengthMismatch,
			"%s has %d bytes by its header, but ends at byte %d", display(r.target), r.size, r.offset)
	}
	return last
}
