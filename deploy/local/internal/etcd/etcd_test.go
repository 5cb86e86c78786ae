package etcd_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"orlop.dev/deploy/local/internal/etcd"
)

const patience = time.Minute // the machine may be busy

func options(t *testing.T) etcd.Options {
	t.Helper()
	dir := t.TempDir()
	// The names of tests don't fit into a socket's 108 bytes.
	sockets, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) }) // leaves at most an empty folder in the system's own
	return etcd.Options{
		Dir: filepath.Join(dir, "data"), Socket: filepath.Join(sockets, "etcd.sock"),
		Log: filepath.Join(dir, "etcd.log"), Logger: slog.New(slog.DiscardHandler),
	}
}

func start(t *testing.T, o etcd.Options) *etcd.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	server, err := etcd.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func TestDataOutlastsTheServer(t *testing.T) {
	o := options(t)
	first := start(t, o)
	if _, err := first.Client().Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// What a killed process leaves.
	if err := os.WriteFile(o.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := start(t, o)
	got, err := second.Client().Get(t.Context(), "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestSocketThatOthersCanReachIsRefused(t *testing.T) {
	o := options(t)
	if err := os.Chmod(filepath.Dir(o.Socket), 0o711); err != nil { //nolint:gosec // on purpose
		t.Fatal(err)
	}
	server, err := etcd.Start(t.Context(), o)
	if !errors.Is(err, etcd.ErrExposed) {
		t.Errorf("got %v, %v", server, err)
	}
}
