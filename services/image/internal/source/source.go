// Package source reads a file from an HTTP server that may be slow, break off,
// move, or mean harm. What its Reader returns is the file from one version of
// it, in order and complete, or an error.
//
// It owns connections and their policy: which addresses may be dialled, how
// long to wait, when to try again. It must not know what the bytes mean.
package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"orlop.dev/services/image/internal/failure"
)

// Why a source fails.
const (
	ReasonInvalidURL      failure.Reason = "InvalidSourceURL"
	ReasonInvalidCA       failure.Reason = "InvalidCABundle"
	ReasonAddressRefused  failure.Reason = "SourceAddressRefused"
	ReasonCertificate     failure.Reason = "SourceCertificateRefused"
	ReasonRedirect        failure.Reason = "SourceRedirectRefused"
	ReasonNotFound        failure.Reason = "SourceNotFound"
	ReasonDenied          failure.Reason = "SourceAccessDenied"
	ReasonResponse        failure.Reason = "SourceResponseUnusable"
	ReasonUnavailable     failure.Reason = "SourceUnavailable"
	ReasonStalled         failure.Reason = "SourceStalled"
	ReasonLengthMismatch  failure.Reason = "SourceLengthMismatch"
	ReasonChanged         failure.Reason = "SourceChanged"
	ReasonCannotBeResumed failure.Reason = "SourceCannotBeResumed"
)

// Validator identifies one version of a file, as its server tells it. The zero
// Validator means that the server can't.
type Validator struct {
	// ETag is a strong entity tag (RFC 9110, 8.8.3), or empty.
	ETag string `json:"etag,omitempty"`
	// LastModified is used where there is no strong tag.
	LastModified string `json:"lastModified,omitempty"`
}

// IsZero reports whether there is nothing to tell versions apart by.
func (v Validator) IsZero() bool { return v == Validator{} }

// ifRange is the value of the If-Range header.
func (v Validator) ifRange() string {
	if v.ETag != "" {
		return v.ETag
	}
	return v.LastModified
}

// Timeouts bound each wait. Zero fields take the default.
type Timeouts struct {
	// Connect bounds resolving, dialling and the TLS handshake, each (10 s).
	Connect time.Duration
	// Header bounds the wait for a response after the request (30 s).
	Header time.Duration
	// Stall bounds the wait for StallBytes of body (60 s).
	Stall time.Duration
	// StallBytes is what must arrive within Stall (64 KiB): a trickle below
	// that counts as a broken connection.
	StallBytes int64
}

// Retry bounds attempts after failures that may pass. Zero fields take the
// default. Progress (ProgressBytes more, or the end of the file) starts the
// count anew.
type Retry struct {
	Attempts      int           // after the first (8)
	Initial       time.Duration // pause before the second attempt (500 ms)
	Max           time.Duration // longest pause (30 s)
	ProgressBytes int64         // what counts as progress (1 MiB)
}

// Options says what to read and how.
type Options struct {
	// URL is an http or https URL. Credentials in it go to its own origin only.
	URL string
	// CABundle holds PEM certificates to trust beside the system's.
	CABundle []byte
	// AllowPrivate are prefixes that may be dialled although they are not
	// public: private, loopback, link-local and other special networks.
	AllowPrivate []netip.Prefix
	// Offset continues a file of which the first Offset bytes are known, and
	// Validator says of which version they are.
	Offset    int64
	Validator Validator

	Timeouts Timeouts
	Retry    Retry

	// Resolver looks names up, anew for each connection; nil is the machine's own.
	Resolver *net.Resolver
	// Wrap, if set, stands between the requests and the policy, such as to log in:
	// it is asked for each request, redirects and other origins included.
	Wrap func(http.RoundTripper) http.RoundTripper
}

const maxRedirects = 5

func (o *Options) setDefaults() {
	setDefault(&o.Timeouts.Connect, 10*time.Second)
	setDefault(&o.Timeouts.Header, 30*time.Second)
	setDefault(&o.Timeouts.Stall, 60*time.Second)
	setDefault(&o.Timeouts.StallBytes, 64<<10)
	setDefault(&o.Retry.Attempts, 8)
	setDefault(&o.Retry.Initial, 500*time.Millisecond)
	setDefault(&o.Retry.Max, 30*time.Second)
	setDefault(&o.Retry.ProgressBytes, 1<<20)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Open asks for the file and returns a reader of it from Options.Offset. It
// tries again while the failure may pass and the budget lasts. ctx bounds the
// whole life of the Reader.
//
// An error with ReasonChanged says that Options.Validator names another version
// than the server has now, one with ReasonCannotBeResumed that the server can't
// tell: start at offset 0.
func Open(ctx context.Context, o Options) (*Reader, error) {
	o.setDefaults()
	target, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Offset > 0 && o.Validator.IsZero() {
		return nil, failure.Temporaryf(ReasonCannotBeResumed, nil,
			"%s can't be resumed: its server told no version", display(target))
	}
	client, err := newClient(&o)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		ctx: ctx, client: client, target: target, options: o,
		offset: o.Offset, size: -1, validator: o.Validator,
		budget: newBudget(o.Retry, o.Offset),
	}
	if err := r.connectWithRetry(nil); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The parser's message quotes the URL, which may hold a password.
		return nil, failure.Terminalf(ReasonInvalidURL, "the source's URL can't be parsed")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, failure.Terminalf(ReasonInvalidURL, "the source's URL has scheme %q; http and https are supported", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, failure.Terminalf(ReasonInvalidURL, "the source's URL names no host")
	}
	return u, nil
}

// display is a URL for people, without what may be secret: user and query.
func display(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// newClient makes a client for one file: no proxy, as that would hide the
// address dialled; no cookies; no transparent decompression, as ranges count
// the bytes on the wire.
func newClient(o *Options) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if len(o.CABundle) > 0 && !roots.AppendCertsFromPEM(o.CABundle) {
		return nil, failure.Terminalf(ReasonInvalidCA, "the CA bundle holds no PEM certificate")
	}
	dialer := &net.Dialer{Timeout: o.Timeouts.Connect, Control: policy{allowed: o.AllowPrivate}.control, Resolver: o.Resolver}
	var transport http.RoundTripper = &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    o.Timeouts.Connect,
		ResponseHeaderTimeout:  o.Timeouts.Header,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		ReadBufferSize:         64 << 10,
	}
	if o.Wrap != nil {
		transport = o.Wrap(transport)
	}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}, nil
}

// checkRedirect follows a few redirects to http and https. Nothing of one
// origin's is shown to the next: net/http drops credentials, and the Referer,
// which may hold a signed query, goes here.
func checkRedirect(next *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return failure.Terminalf(ReasonRedirect, "more than %d redirects", maxRedirects)
	case next.URL.Scheme != "http" && next.URL.Scheme != "https":
		return failure.Terminalf(ReasonRedirect, "a redirect to scheme %q", next.URL.Scheme)
	case from.Scheme == "https" && next.URL.Scheme == "http":
		return failure.Terminalf(ReasonRedirect, "a redirect from https to http (%s)", display(next.URL))
	}
	next.Header.Del("Referer")
	if next.URL.Host != from.Host || next.URL.Scheme != from.Scheme {
		next.Header.Del("Authorization")
		next.Header.Del("Cookie")
	}
	return nil
}
