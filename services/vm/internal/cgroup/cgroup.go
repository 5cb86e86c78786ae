// Package cgroup limits the processor time of processes by control groups of the
// kernel (cgroups(7)), of version 2 or 1, whichever has the cpu controller here.
//
// It owns one folder of groups, and the groups in it. It must not know what the
// processes are.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// period is that of the quota, in microseconds: the kernel's usual one.
	period = 100_000
	// probe is a group that is made and removed to see whether one can be.
	probe = "probe"
	// leastQuota is the kernel's, in microseconds.
	leastQuota = 1_000

	folderMode = 0o755
	fileMode   = 0o644
)

// ErrUnavailable is a machine, or a user, that can't make groups.
var ErrUnavailable = errors.New("no control group can be made")

// Tree is a folder of groups. Its methods may be called from several goroutines,
// for one group from one at a time.
type Tree struct {
	dir     string
	version int
}

// Open makes the folder of that name where the cpu controller is. ErrUnavailable
// says why there is none.
func Open(name string) (*Tree, error) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	failed := fmt.Errorf("%w: the kernel offers no cpu controller", ErrUnavailable)
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		dir, version := mounted(lines.Text())
		if version == 0 {
			continue
		}
		tree := &Tree{dir: filepath.Join(dir, name), version: version}
		if err := tree.make(); err != nil {
			failed = fmt.Errorf("%w: %w", ErrUnavailable, err)
			continue
		}
		return tree, nil
	}
	return nil, failed
}

// mounted reads a line of mountinfo (proc_pid_mountinfo(5)): where a hierarchy
// with the cpu controller is, and of which version; 0 for any other line.
func mounted(line string) (dir string, version int) {
	front, back, _ := strings.Cut(line, " - ")
	place, kind := strings.Fields(front), strings.Fields(back)
	if len(place) < 5 || len(kind) < 3 {
		return "", 0
	}
	dir = place[4]
	switch kind[0] {
	case "cgroup":
		if slices.Contains(strings.Split(kind[2], ","), "cpu") {
			return dir, 1
		}
	case "cgroup2":
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err == nil && slices.Contains(strings.Fields(string(controllers)), "cpu") {
			return dir, 2
		}
	}
	return "", 0
}

// make makes the folder, and sees whether a group in it can be limited.
func (t *Tree) make() error {
	if err := os.MkdirAll(t.dir, folderMode); err != nil {
		return err
	}
	if t.version == 2 {
		for _, dir := range []string{filepath.Dir(t.dir), t.dir} {
			if err := write(dir, "cgroup.subtree_control", "+cpu"); err != nil {
				return errors.Join(err, os.Remove(t.dir))
			}
		}
	}
	if err := errors.Join(t.quota(probe, 1000), t.Remove(probe)); err != nil {
		return errors.Join(err, os.Remove(t.dir))
	}
	return nil
}

// Dir is where the groups are. Whoever ends the processes without the Tree
// removes its folders.
func (t *Tree) Dir() string { return t.dir }

// Close removes the folder, unless there are groups in it: whose processes go on.
func (t *Tree) Close() { _ = os.Remove(t.dir) }

// Limit gives a process, with all that it starts, thousandths of a processor.
// Idempotent.
func (t *Tree) Limit(group string, pid int, milliCPU int64) error {
	if err := t.quota(group, milliCPU); err != nil {
		return err
	}
	return write(filepath.Join(t.dir, group), "cgroup.procs", strconv.Itoa(pid))
}

func (t *Tree) quota(group string, milliCPU int64) error {
	dir := filepath.Join(t.dir, group)
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return err
	}
	quota := max(milliCPU*period/1000, leastQuota)
	if t.version == 2 {
		return write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period))
	}
	return errors.Join(write(dir, "cpu.cfs_period_us", strconv.Itoa(period)), write(dir, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)))
}

func write(dir, name, value string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(value), fileMode)
}

// Remove removes a group whose processes are gone. Idempotent.
func (t *Tree) Remove(group string) error {
	if err := os.Remove(filepath.Join(t.dir, group)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Sweep removes the groups that nobody keeps, and whose processes are gone.
func (t *Tree) Sweep(kept func(group string) bool) error {
	entries, err := os.ReadDir(t.dir)
	for _, entry := range entries {
		if entry.IsDir() && !kept(entry.Name()) {
			err = errors.Join(err, t.Remove(entry.Name()))
		}
	}
	return err
}
