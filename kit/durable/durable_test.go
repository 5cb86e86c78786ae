package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"orlop.dev/kit/durable"
)

func TestFileIsReplacedWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	// What a killed process has left is in nobody's way.
	if err := os.WriteFile(path+".new", []byte("half of what was to be"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"a long first content", "short"} {
		if err := durable.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Fatalf("it has %q, %v", got, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	only(t, filepath.Dir(path), "record.json")
}

func TestFileThatCannotBeWrittenStaysAsItWas(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Error("it was written")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("it has %q, %v", got, err)
	}
}

func TestPublishedFileTakesTheNameOver(t *testing.T) {
	dir := t.TempDir()
	part, path := filepath.Join(dir, "disk.partial"), filepath.Join(dir, "disk")
	for name, content := range map[string]string{part: "new", path: "old"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.Publish(part, path); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "new" {
		t.Errorf("it has %q, %v", got, err)
	}
	only(t, dir, "disk")
	if err := durable.Publish(part, path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrUncertain) {
		t.Errorf("a file that isn't there: %v", err)
	}
}

func TestRemovedFileLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	for _, name := range []string{path, path + ".new"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := durable.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	only(t, dir)
}

func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Fatalf("there is %v, %v", entries, err)
	}
	for i, name := range want {
		if entries[i].Name() != name {
			t.Errorf("there is %s, want %s", entries[i].Name(), name)
		}
	}
}
