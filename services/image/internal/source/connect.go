package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"orlop.dev/services/image/internal/failure"
)

// connect sends one request for the rest of the file. On success r.body stands
// at r.offset. Otherwise it returns how long the server asked to wait, and why.
func (r *Reader) connect() (time.Duration, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	request, err := r.request(ctx)
	if err != nil {
		cancel()
		return 0, err
	}
	response, err := r.client.Do(request) //nolint:bodyclose // by r.body, which keeps it, or b.close
	if err != nil {
		cancel()
		return 0, r.classify(err)
	}
	b := &body{rc: response.Body, cancel: cancel, limits: r.options.Timeouts}
	if err := r.accept(response, b); err != nil {
		b.close()
		return retryAfter(response), err
	}
	r.body = b
	return 0, nil
}

func (r *Reader) request(ctx context.Context) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.target.String(), nil)
	if err != nil {
		return nil, failure.Terminalf(ReasonInvalidURL, "the source's URL can't be requested")
	}
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "orlop")
	if r.offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.offset))
		request.Header.Set("If-Range", r.validator.ifRange())
	}
	return request, nil
}

// accept judges a response and brings its body to r.offset.
func (r *Reader) accept(response *http.Response, b *body) error {
	switch response.StatusCode {
	case http.StatusOK:
		return r.acceptWhole(response, b)
	case http.StatusPartialContent:
		return r.acceptRange(response)
	case http.StatusRequestedRangeNotSatisfiable:
		return r.acceptEnd(response)
	default:
		return r.refused(response.StatusCode)
	}
}

// acceptWhole takes the file from its start. For a server that doesn't do ranges
// the known part is read again and dropped.
func (r *Reader) acceptWhole(response *http.Response, b *body) error {
	if r.offset == 0 && r.validator.IsZero() {
		r.validator = validatorOf(response)
		r.size = response.ContentLength
		return nil
	}
	if err := r.sameVersion(response, response.ContentLength); err != nil {
		return err
	}
	known := make([]byte, min(r.offset, 64<<10))
	for left := r.offset; left > 0; {
		n, err := b.read(known[:min(left, int64(len(known)))])
		left -= int64(n)
		if err != nil && left > 0 {
			return r.interrupted(err)
		}
	}
	return nil
}

func (r *Reader) acceptRange(response *http.Response) error {
	start, size, ok := contentRange(response.Header.Get("Content-Range"))
	if !ok || r.offset == 0 || start != r.offset {
		return failure.Terminalf(ReasonResponse, "%s answered with another range than asked for", display(r.target))
	}
	return r.sameVersion(response, size)
}

// acceptEnd handles a file of which all bytes are known already: no range is left
// to ask for.
func (r *Reader) acceptEnd(response *http.Response) error {
	if response.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", r.offset) {
		return r.changed()
	}
	r.size = r.offset
	return nil
}

// sameVersion holds a later response against what is known of the file.
func (r *Reader) sameVersion(response *http.Response, size int64) error {
	now := validatorOf(response)
	// A 206 may leave out Last-Modified when If-Range held (RFC 9110, 15.3.7).
	if r.validator.ETag != "" && now.ETag != r.validator.ETag {
		return r.changed()
	}
	if r.validator.ETag == "" && now.LastModified != "" && now.LastModified != r.validator.LastModified {
		return r.changed()
	}
	if r.size >= 0 && size >= 0 && size != r.size {
		return r.changed()
	}
	if r.size < 0 {
		r.size = size
	}
	if r.size >= 0 && r.size < r.offset {
		return r.changed()
	}
	return nil
}

func (r *Reader) changed() error {
	return failure.Terminalf(ReasonChanged, "%s changed while it was being read", display(r.target))
}

func (r *Reader) refused(status int) error {
	text := fmt.Sprintf("%s answered %d %s", display(r.target), status, http.StatusText(status))
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		return failure.Terminalf(ReasonNotFound, "%s", text)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return failure.Terminalf(ReasonDenied, "%s", text)
	case status == http.StatusRequestTimeout || status == http.StatusTooEarly ||
		status == http.StatusTooManyRequests || status >= 500:
		return failure.Temporaryf(ReasonUnavailable, nil, "%s", text)
	default:
		return failure.Terminalf(ReasonResponse, "%s", text)
	}
}

// classify turns a transport error into a failure. Refusals of our own pass as
// they are; a certificate stays wrong; the rest may pass.
func (r *Reader) classify(err error) error {
	if own, ok := errors.AsType[*failure.Error](err); ok {
		return own
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &failure.Error{
			Class: failure.Terminal, Reason: ReasonCertificate, Cause: bad.Err,
			Message: fmt.Sprintf("the certificate of %s is not trusted; caBundle can name its authority", display(r.target)),
		}
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return &failure.Error{
			Class: failure.Terminal, Reason: ReasonResponse, Cause: http.ErrSchemeMismatch,
			Message: display(r.target) + " is no https server",
		}
	}
	return failure.Temporaryf(ReasonUnavailable, plain(err), "%s can't be reached", display(r.target))
}

// plain strips the wrapper that quotes the whole URL.
func plain(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// validatorOf takes a strong tag, else the date. Weak tags don't promise the
// same bytes.
func validatorOf(response *http.Response) Validator {
	if tag := response.Header.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return Validator{ETag: tag}
	}
	return Validator{LastModified: response.Header.Get("Last-Modified")}
}

// contentRange parses "bytes 5-9/10"; the size is -1 for "*".
func contentRange(header string) (start, size int64, ok bool) {
	span, total, found := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	first, _, dash := strings.Cut(span, "-")
	start, err := strconv.ParseInt(first, 10, 64)
	if !found || !dash || err != nil {
		return 0, 0, false
	}
	if total == "*" {
		return start, -1, true
	}
	size, err = strconv.ParseInt(total, 10, 64)
	return start, size, err == nil
}

// retryAfter reads the header of that name, in seconds (its date form is rare).
func retryAfter(response *http.Response) time.Duration {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 3600)) * time.Second
}

var _ io.ReadCloser = (*Reader)(nil)
