package registry_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/deploy/local/internal/registry"
	"orlop.dev/kit/serve"
)

// running is a registry that serves until the end of the test.
type running struct {
	*registry.Registry
	url    string
	client *http.Client
}

func run(t *testing.T, dir string) *running {
	t.Helper()
	authority, err := serve.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Options{
		Dir: dir, TLS: serve.ServerTLS(certificate, nil), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, listener) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the registry ended with %v", err)
		}
	})
	return &running{Registry: r, url: "https://" + listener.Addr().String(), client: &http.Client{Transport: transport}}
}

// ask returns the answer's code, Location and body.
func (r *running) ask(t *testing.T, method, target, password, body string) (int, string, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if password != "" {
		request.SetBasicAuth(r.Credential().Username, password)
	}
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header.Get("Location"), string(content)
}

func TestNobodyComesInWithoutTheCredential(t *testing.T) {
	r := run(t, t.TempDir())
	for _, test := range []struct {
		name, password string
		want           int
	}{
		{"no credential", "", http.StatusUnauthorized},
		{"wrong password", "guess", http.StatusUnauthorized},
		{"the credential", r.Credential().Password, http.StatusOK},
	} {
		t.Run(test.name, func(t *testing.T) {
			if code, _, _ := r.ask(t, http.MethodGet, r.url+"/v2/", test.password, ""); code != test.want {
				t.Errorf("got %d, want %d", code, test.want)
			}
		})
	}
}

func TestBlobIsAFileOfItsOwn(t *testing.T) {
	const blob = "the bare disk"
	dir := t.TempDir()
	r := run(t, dir)
	password := r.Credential().Password
	code, location, _ := r.ask(t, http.MethodPost, r.url+"/v2/vi/default/ubuntu/blobs/uploads/", password, "")
	if code != http.StatusAccepted {
		t.Fatalf("an upload began with %d", code)
	}
	upload, err := url.Parse(r.url + location)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(blob))
	digest := hex.EncodeToString(sum[:])
	query := upload.Query()
	query.Set("digest", "sha256:"+digest)
	upload.RawQuery = query.Encode()
	if code, _, body := r.ask(t, http.MethodPut, upload.String(), password, blob); code != http.StatusCreated {
		t.Fatalf("the upload ended with %d %s", code, body)
	}
	path := filepath.Join(r.Dir(), "docker", "registry", "v2", "blobs", "sha256", digest[:2], digest, "data")
	if content, err := os.ReadFile(path); err != nil || string(content) != blob {
		t.Errorf("the file has %q, %v", content, err)
	}
	if _, _, body := r.ask(t, http.MethodGet, r.url+"/v2/vi/default/ubuntu/blobs/sha256:"+digest, password, ""); body != blob {
		t.Errorf("the registry gave %q", body)
	}
}

func TestCredentialStaysAndIsTheOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	first := run(t, dir).Credential()
	second := run(t, dir).Credential()
	if first != second {
		t.Error("another start has another credential")
	}
	if strings.Contains(first.String(), first.Password) {
		t.Error("the credential prints its password")
	}
	for _, name := range []string{"credential.json", "htpasswd"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}
