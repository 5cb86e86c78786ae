package containerimage

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containers/image/v5/manifest"
	"github.com/docker/distribution/registry/client/auth/challenge"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

// maxTokenBytes bounds what an authority answers.
const maxTokenBytes = 1 << 20

// login is what a registry asks its clients for: nothing, a password, or a token
// that another server gives for it.
type login struct {
	host, repository string
	key              key

	mu     sync.Mutex
	header string // Authorization, once it is known
}

// authorized adds to a client's requests what the registry asks for. What goes to
// other hosts, where layers often are, gets nothing.
type authorized struct {
	login *login
	next  http.RoundTripper
}

// CloseIdleConnections is http.Client's.
func (a *authorized) CloseIdleConnections() {
	if closer, ok := a.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (a *authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Host != a.login.host {
		return a.next.RoundTrip(request)
	}
	response, err := a.next.RoundTrip(a.login.sign(request))
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	known, err := a.login.answer(request.Context(), a.next, response)
	if err != nil {
		response.Body.Close()
		return nil, err
	}
	if !known {
		return response, nil // the caller sees the refusal
	}
	response.Body.Close()
	return a.next.RoundTrip(a.login.sign(request))
}

// sign returns a copy of the request, as the registry wants it.
func (l *login) sign(request *http.Request) *http.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	signed := request.Clone(request.Context())
	if strings.Contains(request.URL.Path, "/manifests/") {
		signed.Header["Accept"] = []string{
			v1.MediaTypeImageManifest, v1.MediaTypeImageIndex,
			manifest.DockerV2Schema2MediaType, manifest.DockerV2ListMediaType,
		}
	}
	if l.header != "" {
		signed.Header.Set("Authorization", l.header)
	}
	return signed
}

// answer finds what a refused request lacks; false if there is nothing to try.
func (l *login) answer(ctx context.Context, next http.RoundTripper, refused *http.Response) (bool, error) {
	for _, c := range challenge.ResponseChallenges(refused) {
		switch strings.ToLower(c.Scheme) {
		case "basic":
			if l.key.isZero() {
				continue
			}
			return l.learn(l.key.basic()), nil
		case "bearer":
			token, err := l.token(ctx, next, refused.Request.URL, c.Parameters)
			if err != nil || token == "" {
				return false, err
			}
			return l.learn("Bearer " + token), nil
		}
	}
	return false, nil
}

// learn keeps the header; false if that was it already.
func (l *login) learn(header string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	other := l.header != header
	l.header = header
	return other
}

// token asks the authority that the registry names, with the password if there
// is one. Empty: it gives none.
func (l *login) token(ctx context.Context, next http.RoundTripper, registry *url.URL, parameters map[string]string) (string, error) {
	realm, err := url.Parse(parameters["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != registry.Scheme {
		return "", failure.Terminalf(source.ReasonDenied, "the registry %s names no usable authority for its tokens", l.host)
	}
	query := realm.Query()
	if service := parameters["service"]; service != "" {
		query.Set("service", service)
	}
	query.Set("scope", "repository:"+l.repository+":pull")
	realm.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", failure.Terminalf(source.ReasonDenied, "the registry %s names no usable authority for its tokens", l.host)
	}
	request.Header.Set("User-Agent", "orlop")
	if !l.key.isZero() {
		request.Header.Set("Authorization", l.key.basic())
	}
	response, err := next.RoundTrip(request)
	if err != nil {
		return "", err // as the connection to the registry would fail
	}
	defer response.Body.Close()
	return tokenIn(response, realm.Host)
}

func tokenIn(response *http.Response, host string) (string, error) {
	switch status := response.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusTooManyRequests || status >= 500:
		return "", failure.Temporaryf(source.ReasonUnavailable, nil, "%s, which gives tokens, answered %d", host, status)
	default:
		return "", nil
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"` // OAuth's name for it
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxTokenBytes)).Decode(&answer); err != nil {
		return "", failure.Temporaryf(source.ReasonUnavailable, nil, "%s, which gives tokens, gave none", host)
	}
	if answer.Token != "" {
		return answer.Token, nil
	}
	return answer.AccessToken, nil
}
