package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orlop.dev/kit/serve"
)

const patience = time.Minute

// TestProcessServesWhileEveryServiceIsDown: health and the documentation are
// there, and a stranger gets nothing else.
func TestProcessServesWhileEveryServiceIsDown(t *testing.T) {
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	address := freeAddress(t)
	arguments := certificate(t, authority)
	for _, peer := range []string{"image", "disk", "network", "vm", "snapshot"} {
		arguments = append(arguments, "--"+peer+"-service=127.0.0.1:1")
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append(arguments, "--address="+address)) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the process was told to end and says: %v", err)
		}
	}()

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: serve.ClientTLS(authority.Pool())}}
	defer client.CloseIdleConnections()
	calls, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/openapi.json": http.StatusOK,
		"/v1alpha2/namespaces/default/virtualdisks": http.StatusUnauthorized,
	} {
		if got := status(calls, t, client, "https://"+address+path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func TestProcessSaysWhatIsMissing(t *testing.T) {
	if err := run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "--disk-service is required") {
		t.Errorf("without peers it says %v", err)
	}
}

// status asks until somebody answers.
func status(ctx context.Context, t *testing.T, client *http.Client, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	check(t, err)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		response, err := client.Do(request)
		if err == nil {
			check(t, response.Body.Close())
			return response.StatusCode
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func certificate(t *testing.T, authority *serve.Authority) []string {
	t.Helper()
	pair, err := authority.Server()
	check(t, err)
	dir := t.TempDir()
	file, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	check(t, pair.Write(file, key))
	return []string{"--tls-certificate=" + file, "--tls-key=" + key}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
