package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// headerTimeout is how long a client may take for its request's header,
	// idleTimeout how long it may keep a connection without one.
	headerTimeout = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// connections that are kept to one guest.
	idleConnections = 32
)

// Options say how backends are reached.
type Options struct {
	// Endpoints returns who stands behind a backend and is Ready. The error says,
	// to the client, why nobody can.
	Endpoints func(Backend) ([]netip.AddrPort, error)
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	// Certificate is for hosts that no Ingress has one for.
	Certificate tls.Certificate
	Logger      *slog.Logger
}

// Proxy leads requests to backends. Its zero Table knows none.
type Proxy struct {
	options Options
	table   atomic.Pointer[Table]
	reverse *httputil.ReverseProxy
}

// NewProxy returns a proxy that knows no rule yet.
func NewProxy(options Options) *Proxy {
	p := &Proxy{options: options}
	p.table.Store(&Table{})
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := options.Dial(ctx, network, address)
			if err != nil {
				return nil, &dialError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout, DisableCompression: true,
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = r.In.Host // of an endpoint, once one is chosen
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport:     firstThatAnswers{transport},
		FlushInterval: -1, // what a guest says is passed on at once
		ErrorHandler:  p.failed,
		ErrorLog:      slog.NewLogLogger(options.Logger.Handler(), slog.LevelDebug),
	}
	return p
}

// Use goes by other rules from the next request on.
func (p *Proxy) Use(table *Table) { p.table.Store(table) }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	backend := p.table.Load().Find(r.Host, r.URL.Path)
	if backend == nil {
		http.Error(w, fmt.Sprintf("No Ingress has a rule for host %q and path %q.", r.Host, r.URL.Path), http.StatusNotFound)
		return
	}
	endpoints, err := p.options.Endpoints(*backend)
	if err != nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endpointsKey{}, endpoints)))
}

// failed answers for a backend that didn't.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the client left
	}
	p.options.Logger.Debug("a request failed", "host", r.Host, "path", r.URL.Path, "error", err)
	status := http.StatusBadGateway
	if dial := new(dialError); errors.As(err, &dial) {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "5")
	}
	http.Error(w, fmt.Sprintf("The guest behind host %q and path %q does not answer.", r.Host, r.URL.Path), status)
}

// Serve takes requests from a listener until ctx ends.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) {
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	_ = server.Serve(listener) // it was closed
}

// ServeTLS is Serve for HTTPS.
func (p *Proxy) ServeTLS(ctx context.Context, listener net.Listener) {
	p.Serve(ctx, tls.NewListener(listener, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: p.certificate,
	}))
}

func (p *Proxy) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if certificate := p.table.Load().Certificate(hello.ServerName); certificate != nil {
		return certificate, nil
	}
	return &p.options.Certificate, nil
}

// endpointsKey has, in a request's context, who may answer it.
type endpointsKey struct{}

// dialError says that a request has not reached anybody: it may be sent to
// somebody else.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// firstThatAnswers sends a request to its endpoints in their order until one
// can be connected to.
type firstThatAnswers struct{ transport http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (f firstThatAnswers) RoundTrip(r *http.Request) (response *http.Response, err error) {
	endpoints, _ := r.Context().Value(endpointsKey{}).([]netip.AddrPort)
	for _, endpoint := range endpoints {
		attempt := r.Clone(r.Context())
		attempt.URL.Host = endpoint.String()
		if r.Body != nil && r.Body != http.NoBody {
			attempt.Body = io.NopCloser(r.Body) // a failed attempt would close it, unread
		}
		response, err = f.transport.RoundTrip(attempt)
		if dial := new(dialError); !errors.As(err, &dial) {
			break
		}
	}
	return response, err
}
