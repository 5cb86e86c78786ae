package cgroup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/services/vm/internal/cgroup"
)

func TestAProcessIsLimitedAndItsGroupGoes(t *testing.T) {
	tree, err := cgroup.Open(fmt.Sprintf("orlop-test-%d", os.Getpid()))
	if errors.Is(err, cgroup.ErrUnavailable) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() {
		tree.Close()
		if _, err := os.Stat(tree.Dir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder is still there: %v", err)
		}
	})
	process := exec.Command("sleep", "600")
	check(t, process.Start())
	t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
	for range 2 {
		check(t, tree.Limit("one", process.Process.Pid, 250))
	}
	// The kernel's own view of it.
	in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", process.Process.Pid))
	if err != nil || !strings.Contains(string(in), "/"+filepath.Base(tree.Dir())+"/one\n") {
		t.Errorf("the process is in %s, %v", in, err)
	}
	v1, _ := os.ReadFile(filepath.Join(tree.Dir(), "one", "cpu.cfs_quota_us"))
	v2, _ := os.ReadFile(filepath.Join(tree.Dir(), "one", "cpu.max"))
	if got := string(v1) + string(v2); got != "25000\n" && got != "25000 100000\n" {
		t.Errorf("the quota is %q", got)
	}
	tree.Close()
	if err := tree.Remove("one"); err == nil {
		t.Error("a group with a process is removed")
	}
	check(t, process.Process.Kill())
	_ = process.Wait()
	check(t, tree.Sweep(func(string) bool { return false }))
	check(t, tree.Remove("one"))
	if _, err := os.Stat(filepath.Join(tree.Dir(), "one")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group is still there: %v", err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
