package ingress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
	networkingv1 "k8s.io/api/networking/v1"

	"orlop.dev/deploy/local/internal/publish/ingress"
)

// entrance is a proxy with one rule, for guest.example.com, and its clients.
type entrance struct {
	*httptest.Server
	proxy     *ingress.Proxy
	endpoints atomic.Pointer[[]netip.AddrPort]
}

// dead is an endpoint that nobody listens at.
var dead = netip.MustParseAddrPort("127.0.0.1:1")

func newEntrance(t *testing.T, guest http.HandlerFunc) *entrance {
	t.Helper()
	server := httptest.NewServer(guest)
	t.Cleanup(server.Close)
	e := new(entrance)
	e.behind(netip.MustParseAddrPort(server.Listener.Addr().String()))
	e.proxy = ingress.NewProxy(ingress.Options{
		Endpoints: func(b ingress.Backend) ([]netip.AddrPort, error) {
			endpoints := *e.endpoints.Load()
			if len(endpoints) == 0 {
				return nil, errors.New("No VM behind " + b.Service + " is Ready.")
			}
			return append([]netip.AddrPort{}, endpoints...), nil
		},
		Dial: new(net.Dialer).DialContext, Logger: slog.New(slog.DiscardHandler),
	})
	e.proxy.Use(ingress.NewTable([]*networkingv1.Ingress{
		object("web", 1, path{"guest.example.com", "/", networkingv1.PathTypePrefix, "web"}),
	}, nil))
	e.Server = httptest.NewServer(e.proxy)
	t.Cleanup(e.Close)
	return e
}

func (e *entrance) behind(endpoints ...netip.AddrPort) { e.endpoints.Store(&endpoints) }

func (e *entrance) ask(t *testing.T, host, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL+"/page", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = host
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

func TestGuestIsAskedAsItWouldBeDirectly(t *testing.T) {
	e := newEntrance(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Host, r.URL.Path, body, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	})
	alive := (*e.endpoints.Load())[0]
	e.behind(dead, alive, dead) // whoever doesn't answer is passed over, and the body is not lost
	for range 20 {
		status, said := e.ask(t, "guest.example.com", "hello")
		if status != http.StatusOK || said != "guest.example.com /page hello 127.0.0.1 http" {
			t.Fatalf("%d %s", status, said)
		}
	}
}

func TestWhoeverCannotBeAskedIsNamed(t *testing.T) {
	e := newEntrance(t, func(http.ResponseWriter, *http.Request) {})
	want := func(host string, status int, words string) {
		t.Helper()
		if got, said := e.ask(t, host, ""); got != status || !strings.Contains(said, words) {
			t.Errorf("%s: %d %s", host, got, said)
		}
	}
	want("other.example.com", http.StatusNotFound, `"other.example.com"`)
	e.behind(dead)
	want("guest.example.com", http.StatusServiceUnavailable, "does not answer")
	e.behind()
	want("guest.example.com", http.StatusServiceUnavailable, "No VM behind web is Ready.")
}

func TestWebSocketsAreLedThrough(t *testing.T) {
	e := newEntrance(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		kind, message, err := conn.Read(r.Context())
		if err == nil {
			_ = conn.Write(r.Context(), kind, append([]byte("you said "), message...))
		}
		_ = conn.Close(websocket.StatusNormalClosure, "")
	})
	dialer := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, e.Listener.Addr().String())
	}}}
	conn, _, err := websocket.Dial(t.Context(), "ws://guest.example.com/", &websocket.DialOptions{HTTPClient: dialer})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, answer, err := conn.Read(t.Context()); err != nil || string(answer) != "you said hello" {
		t.Errorf("heard %q, %v", answer, err)
	}
}
