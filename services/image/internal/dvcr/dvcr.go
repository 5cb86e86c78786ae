// Package dvcr keeps disk images in an OCI registry: one artifact an image,
// whose single layer is the bare disk file.
//
// It owns the form of the artifact and the talk with the registry: manifests
// through containers/image, blobs by the distribution API itself, as an upload
// must survive the death of its process and its size needn't be known first.
// It must not know what makes an image good.
package dvcr

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containers/image/v5/types"
	"github.com/distribution/reference"

	"orlop.dev/services/image/internal/failure"
)

// Why the registry fails. All but ReasonNotAnImage are temporary: what is wrong
// lies with the registry, not with the image.
const (
	ReasonUnavailable failure.Reason = "RegistryUnavailable"
	ReasonDenied      failure.Reason = "RegistryAccessDenied"
	ReasonRefused     failure.Reason = "RegistryRefused"
	ReasonNotFound    failure.Reason = "NotInRegistry"
	ReasonUploadLost  failure.Reason = "UploadLost"
	// ReasonUploadMoved says that a request which was thought dead still wrote:
	// resume once more.
	ReasonUploadMoved failure.Reason = "UploadMoved"
	ReasonNotAnImage  failure.Reason = "NotADiskImage"
)

const (
	// shortWait bounds requests that move no data.
	shortWait = time.Minute
	// commitWait bounds the end of an upload, at which the registry may read
	// the whole blob again.
	commitWait = time.Hour
	// defaultStall is Options.Stall where none is given.
	defaultStall = 2 * time.Minute
	// nowhere is a directory that doesn't exist, by Debian's convention.
	nowhere = "/nonexistent"
	// maxErrorBytes bounds what is read of an answer that is an error.
	maxErrorBytes = 4 << 10
)

// Options says where the registry is and how to log in.
type Options struct {
	// Endpoint is host:port.
	Endpoint string
	// PlainHTTP leaves TLS out; it is refused but for loopback addresses.
	PlainHTTP bool
	// CertDir holds certificates of authorities (*.crt), the system's being
	// trusted beside them. Empty: the system's only.
	CertDir string
	// Username and Password are for basic authentication; empty means none.
	Username, Password string
	// Stall bounds the time in which the registry takes nothing of an upload; two
	// minutes where it is 0.
	Stall time.Duration
	// UploadDir finds the folder of an upload, and BlobPath the file of a blob by
	// its digest, where the registry's storage (that of the CNCF distribution's
	// filesystem driver) is on this machine. Bytes then go into and come out of
	// files; the registry itself still begins, commits and names what it has. Nil
	// where they go by requests.
	UploadDir func(repository, id string) string
	BlobPath  func(digest string) (path string, ok bool)
}

// Registry is a client of one registry. It is safe for concurrent use.
type Registry struct {
	options Options
	base    *url.URL
	client  *http.Client
	system  *types.SystemContext
}

// New makes a client; it doesn't connect.
func New(o Options) (*Registry, error) {
	host, _, err := net.SplitHostPort(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("dvcr: endpoint %q: %w", o.Endpoint, err)
	}
	if o.PlainHTTP && !isLoopback(host) {
		return nil, fmt.Errorf("dvcr: plain HTTP to %s, which is not a loopback address", host)
	}
	roots, err := authorities(o.CertDir)
	if err != nil {
		return nil, err
	}
	scheme := "https"
	if o.PlainHTTP {
		scheme = "http"
	}
	o.Stall = cmp.Or(o.Stall, defaultStall)
	return &Registry{
		options: o,
		base:    &url.URL{Scheme: scheme, Host: o.Endpoint},
		client: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: 10 * time.Second,
				DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 4,
				IdleConnTimeout:     time.Minute,
				DisableCompression:  true,
				WriteBufferSize:     256 << 10,
				ReadBufferSize:      64 << 10,
			},
			// The registry is one server: a redirect would take credentials away.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		system: systemContext(o),
	}, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}

func authorities(dir string) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if dir == "" {
		return roots, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return nil, fmt.Errorf("dvcr: certificates: %w", err)
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("dvcr: certificates: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("dvcr: %s holds no PEM certificate", file)
		}
	}
	return roots, nil
}

// systemContext keeps containers/image to these options: no configuration,
// credentials or certificates of the machine's or the user's are read.
func systemContext(o Options) *types.SystemContext {
	return &types.SystemContext{
		DockerAuthConfig:             &types.DockerAuthConfig{Username: o.Username, Password: o.Password},
		DockerCertPath:               o.CertDir,
		DockerInsecureSkipTLSVerify:  types.NewOptionalBool(o.PlainHTTP),
		DockerDisableV1Ping:          true,
		DockerRegistryUserAgent:      "orlop",
		DockerPerHostCertDirPath:     nowhere,
		RegistriesDirPath:            nowhere,
		SystemRegistriesConfPath:     os.DevNull,
		SystemRegistriesConfDirPath:  nowhere,
		AuthFilePath:                 nowhere,
		RootForImplicitAbsolutePaths: nowhere,
	}
}

// Repository returns the repository of that name, such as "vi/default/ubuntu".
// It needn't exist yet.
func (r *Registry) Repository(name string) (*Repository, error) {
	named, err := reference.WithName(r.options.Endpoint + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("dvcr: repository %q: %w", name, err)
	}
	return &Repository{registry: r, name: name, named: named}, nil
}

// Repository is one repository of the registry.
type Repository struct {
	registry *Registry
	name     string
	named    reference.Named
}

// Name returns the repository's name without the registry.
func (p *Repository) Name() string { return p.name }

// url is /v2/NAME/ and what follows.
func (p *Repository) url(path string, query url.Values) string {
	u := *p.registry.base
	u.Path = "/v2/" + p.name + "/" + path
	u.RawQuery = query.Encode()
	return u.String()
}

// absolute is the URL of a location, which is a path and a query.
func (r *Registry) absolute(location string) string { return r.base.String() + location }

// answer is what a response says besides its body.
type answer struct {
	status int
	header http.Header
	// location is the next request's, nil where none is named.
	location *url.URL
}

// call sends a request that moves little data, and returns an answer of one of
// the statuses in want.
func (p *Repository) call(ctx context.Context, method, target string, want ...int) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, shortWait)
	defer cancel()
	request, err := p.registry.request(ctx, method, target, nil)
	if err != nil {
		return answer{}, err
	}
	return p.registry.do(request, want...)
}

func (r *Registry) request(ctx context.Context, method, target string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, failure.Temporaryf(ReasonRefused, nil, "the registry gave a location that can't be requested")
	}
	if request.URL.Host != r.base.Host || request.URL.Scheme != r.base.Scheme {
		return nil, failure.Temporaryf(ReasonRefused, nil, "the registry points to another server, %s", request.URL.Host)
	}
	if r.options.Username != "" {
		request.SetBasicAuth(r.options.Username, r.options.Password)
	}
	request.Header.Set("User-Agent", "orlop")
	return request, nil
}

// do sends a request whose answer has no body worth keeping.
func (r *Registry) do(request *http.Request, want ...int) (answer, error) {
	response, err := r.client.Do(request)
	if err != nil {
		return answer{}, unreachable(request.Context(), err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	for _, status := range want {
		if response.StatusCode == status {
			location, _ := response.Location() // the error says that there is none
			return answer{status: status, header: response.Header, location: location}, nil
		}
	}
	return answer{}, refusal(response.StatusCode, text)
}

// unreachable classifies an error of the transport. The caller's own end is
// no failure of the registry's.
func unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without the URL: an upload's holds its token
	}
	return failure.Temporaryf(ReasonUnavailable, err, "the registry can't be reached")
}

// refusal classifies an answer that wasn't asked for.
func refusal(status int, text []byte) error {
	message := fmt.Sprintf("the registry answered %d %s%s", status, http.StatusText(status), firstError(text))
	switch {
	case status == http.StatusNotFound:
		return failure.Temporaryf(ReasonNotFound, nil, "%s", message)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return failure.Temporaryf(ReasonDenied, nil, "%s", message)
	case status == http.StatusRequestedRangeNotSatisfiable:
		return failure.Temporaryf(ReasonUploadMoved, nil, "%s", message)
	case status == http.StatusTooManyRequests || status >= 500:
		return failure.Temporaryf(ReasonUnavailable, nil, "%s", message)
	default:
		return failure.Temporaryf(ReasonRefused, nil, "%s", message)
	}
}

// firstError is the code and message of the first error in a registry's answer.
func firstError(text []byte) string {
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(text, &answer) != nil || len(answer.Errors) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(answer.Errors[0].Code+" "+answer.Errors[0].Message)
}
