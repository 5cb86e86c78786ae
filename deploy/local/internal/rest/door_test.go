// Package rest_test goes through the REST door to the disk service, as any HTTP
// client would: over TLS, with a token.
package rest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"orlop.dev/facade/gateway"
	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/tokenfile"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve"
	"orlop.dev/services/disk"
)

const (
	adminToken  = "admin-token"
	viewerToken = "viewer-token"
	tokens      = adminToken + ",admin,1,\"system:masters\"\n" + viewerToken + ",viewer,2,\"view\"\n"

	disks = "/v1alpha2/namespaces/default/virtualdisks"
	// deadline is for what a busy machine may take long over. Nothing waits for
	// it in a good run.
	deadline = time.Minute
)

// door is the gateway in front of a disk service.
type door struct {
	url    string
	client *http.Client

	stopGateway, stopService context.CancelFunc
}

func newDoor(t *testing.T) *door {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	listener := listen(t)
	service, err := serve.Dial(listener.Addr().String(), serve.ClientTLS(authority.Pool()))
	check(t, err)
	t.Cleanup(func() { _ = service.Close() })

	disks, err := disk.New(disk.Options{
		Etcd: etcdtest.Start(t), Prefix: disk.DefaultPrefix, Images: service, Dir: t.TempDir(), Logger: logger,
	})
	check(t, err)
	return openDoor(t, authority, disks.Part(), service, listener, logger)
}

// openDoor serves a part on the listener, to which conn leads, and the gateway
// before it.
func openDoor(t *testing.T, authority *serve.Authority, part serve.Part, conn *grpc.ClientConn, listener net.Listener, logger *slog.Logger) *door {
	t.Helper()
	users, err := tokenfile.Parse(strings.NewReader(tokens))
	check(t, err)
	stopService := background(t, "serve", func(ctx context.Context) error {
		return serve.Run(ctx, serve.Config{
			Options: serve.Defaults(), Name: "test", Guard: auth.NewGuard(users, tokenfile.Rights{}),
			TLS: serverTLS(t, authority), Listener: listener, Logger: logger,
		}, part)
	})
	check(t, part.Ready(t.Context()))

	rest := listen(t)
	stopGateway := background(t, "gateway", func(ctx context.Context) error {
		return gateway.Run(ctx, gateway.Options{
			Listener: rest, TLS: serverTLS(t, authority), Logger: logger,
			Connect: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
		})
	})
	transport := &http.Transport{TLSClientConfig: serve.ClientTLS(authority.Pool()), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &door{
		url: "https://" + rest.Addr().String(), client: &http.Client{Transport: transport},
		stopGateway: stopGateway, stopService: stopService,
	}
}

// request is what a test asks for. Body is sent as it is if it is a string, else
// as JSON.
type request struct {
	method, path string
	body         any
	header       map[string]string
	token        string // none: the administrator's
}

// answer is what came back.
type answer struct {
	*http.Response
	text []byte
}

// failure is the body of a refusal.
type failure struct {
	Type    string
	Code    int
	Reason  string
	Message string
	Fields  []struct{ Field, Rule, Message string }
}

func (d *door) ask(t *testing.T, r request) answer {
	t.Helper()
	response := d.open(t, r)
	text, err := io.ReadAll(response.Body)
	check(t, err)
	check(t, response.Body.Close())
	return answer{response, text}
}

// open is ask for a body that has no end.
func (d *door) open(t *testing.T, r request) *http.Response {
	t.Helper()
	var body io.Reader
	switch content := r.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(content)
	default:
		text, err := json.Marshal(content)
		check(t, err)
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	asked, err := http.NewRequestWithContext(ctx, r.method, d.url+r.path, body)
	check(t, err)
	switch r.token {
	case "":
		asked.Header.Set("Authorization", "Bearer "+adminToken)
	case "none":
	default:
		asked.Header.Set("Authorization", "Bearer "+r.token)
	}
	for name, value := range r.header {
		asked.Header.Set(name, value)
	}
	response, err := d.client.Do(asked)
	check(t, err)
	return response
}

// object wants an answer with the code, and reads its body.
func (a answer) object(t *testing.T, code int) map[string]any {
	t.Helper()
	if a.StatusCode != code {
		t.Fatalf("%s %s answers %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, code, a.text)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the content is %q", got)
	}
	var object map[string]any
	check(t, json.Unmarshal(a.text, &object))
	return object
}

// refusal wants a failure with the code and the reason.
func (a answer) refusal(t *testing.T, code int, reason string) failure {
	t.Helper()
	a.object(t, code)
	var f failure
	check(t, json.Unmarshal(a.text, &f))
	if f.Code != code || f.Reason != reason || f.Message == "" {
		t.Errorf("the refusal is %s, want code %d, reason %s and a message", a.text, code, reason)
	}
	return f
}

func (d *door) create(t *testing.T, name string) map[string]any {
	t.Helper()
	return d.ask(t, request{method: http.MethodPost, path: disks, body: manifest(name)}).object(t, http.StatusOK)
}

func (d *door) get(t *testing.T, name string) map[string]any {
	t.Helper()
	return d.ask(t, request{method: http.MethodGet, path: disks + "/" + name}).object(t, http.StatusOK)
}

func manifest(name string) map[string]any {
	return map[string]any{
		"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualDisk",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"persistentVolumeClaim": map[string]any{"size": "10Mi"}},
	}
}

// at reads a value by its path.
func at(object any, path ...string) any {
	for _, key := range path {
		inner, _ := object.(map[string]any)
		object = inner[key]
	}
	return object
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return listener
}

func serverTLS(t *testing.T, authority *serve.Authority) *tls.Config {
	t.Helper()
	pair, err := authority.Server("127.0.0.1")
	check(t, err)
	certificate, err := pair.TLS()
	check(t, err)
	return serve.ServerTLS(certificate, authority.Pool())
}

// background runs something until the test ends, or until what it returns is
// called.
func background(t *testing.T, name string, run func(context.Context) error) context.CancelFunc {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return cancel
}
