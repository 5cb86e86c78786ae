// Package toykind_test keeps CONTRIBUTING's promise: a kind is its proto and a
// reconciler. It adds one to a copy of the repository, generates, and meets it
// at all three doors. It is outside the workspace, since the copy is one of its
// own.
package toykind_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestKindIsItsProtoAndAReconciler(t *testing.T) {
	if testing.Short() {
		t.Skip("generates, compiles and starts the local Kubernetes API: not in the fast run")
	}
	root, err := filepath.Abs("../..")
	check(t, err)
	for _, name := range []string{"kube", "kubectl", "buf"} {
		if _, err := os.Stat(filepath.Join(root, "bin", name)); err != nil {
			t.Skipf("bin/%s is not built: make build builds it", name)
		}
	}
	house := t.TempDir()
	copyTree(t, root, house)
	check(t, os.Symlink(filepath.Join(root, "bin"), filepath.Join(house, "bin")))
	check(t, os.CopyFS(filepath.Join(house, "proto"), os.DirFS("testdata/proto")))
	check(t, os.CopyFS(filepath.Join(house, "deploy/local/internal/toy"), os.DirFS("testdata/toy")))
	run(t, house, "tools/generate.sh")
	run(t, filepath.Join(house, "deploy/local"), "go", "test", "-vet=off", "./internal/toy")
}

// copyTree copies what git would commit.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	names, err := list.Output()
	check(t, err)
	for name := range bytes.SplitSeq(bytes.TrimRight(names, "\x00"), []byte{0}) {
		copyFile(t, filepath.Join(from, string(name)), filepath.Join(to, string(name)))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Lstat(from)
	if os.IsNotExist(err) {
		return // deleted, and not yet in git
	}
	check(t, err)
	check(t, os.MkdirAll(filepath.Dir(to), 0o755))
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		check(t, err)
		check(t, os.Symlink(target, to))
		return
	}
	content, err := os.ReadFile(from)
	check(t, err)
	check(t, os.WriteFile(to, content, info.Mode().Perm()))
}

func run(t *testing.T, dir, name string, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, arguments...)
	if filepath.Dir(name) != "." {
		command.Path = filepath.Join(dir, name)
	}
	command.Dir = dir
	// The copy is a workspace of its own, whatever this test runs in.
	command.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
