package cli

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"orlop.dev/facade/home"
)

// newHome makes a state folder that trusts a server's certificate.
func newHome(t *testing.T, trusted *x509.Certificate) home.Home {
	t.Helper()
	h, err := home.Locate(t.TempDir())
	if errors.Is(err, home.ErrPathTooLong) {
		t.Skipf("the temporary folder is too deep: %v", err)
	}
	if err := errors.Join(err, h.Make()); err != nil {
		t.Fatal(err)
	}
	if trusted == nil {
		return h
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.Raw})
	if err := os.WriteFile(h.CACertificate(), block, 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// newDoor serves a health of that status.
func newDoor(t *testing.T, status int) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	door := httptest.NewTLSServer(mux)
	t.Cleanup(door.Close)
	return door
}

func address(door *httptest.Server) string { return strings.TrimPrefix(door.URL, "https://") }

func TestDoorIsHealthyOnlyIfItSaysSo(t *testing.T) {
	well, ill := newDoor(t, http.StatusOK), newDoor(t, http.StatusServiceUnavailable)
	if err := knock(t.Context(), newHome(t, well.Certificate()), address(well)); err != nil {
		t.Errorf("a door that is well: %v", err)
	}
	err := knock(t.Context(), newHome(t, ill.Certificate()), address(ill))
	if said, ok := errors.AsType[*StatusError](err); !ok || said.Code != http.StatusServiceUnavailable {
		t.Errorf("a door that is ill: %v", err)
	}
}

func TestClosedDoorIsTold(t *testing.T) {
	h := newHome(t, newDoor(t, http.StatusOK).Certificate())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := knock(t.Context(), h, closed); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}
