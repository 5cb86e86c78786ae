// Package namespace owns one network namespace of this machine, by name: it makes it, removes it, and does things in it.
// It knows nothing of what is inside.
//
// A Go program can't hold a namespace for a part of its work: threads are in namespaces, goroutines wander between
// threads. So all work inside runs on a thread made for it, which ends with it. No thread ever comes back from another
// namespace, and so none can come back into the wrong one.
package namespace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	directory = "/run/netns" // where ip-netns(8) looks for names
	mark      = "orlop"      // alias of the loopback device of each namespace that is ours
)

// A NameError says that a text can't name a namespace.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	return fmt.Sprintf("%q can't name a network namespace: 1 to 64 letters, digits, dots, dashes and underscores can", e.Name)
}

var pattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

// A Namespace is a named network namespace, there or not, or the one that this process runs in.
type Namespace struct {
	name  string
	dials chan struct{}
}

// Named returns the namespace that ip-netns(8) knows by this name; the empty name is the process's own. It doesn't touch
// the machine. The error is a *NameError.
func Named(name string) (*Namespace, error) {
	if name != "" && !pattern.MatchString(name) {
		return nil, &NameError{Name: name}
	}
	return &Namespace{name: name, dials: make(chan struct{}, maxDials)}, nil
}

// Host says whether this is the namespace that the process runs in.
func (n *Namespace) Host() bool { return n.name == "" }

// Path is the file that stands for the namespace, or nothing for the process's own.
func (n *Namespace) Path() string {
	if n.Host() {
		return ""
	}
	return filepath.Join(directory, n.name)
}

// Exists says whether the namespace is there.
func (n *Namespace) Exists() bool {
	if n.Host() {
		return true
	}
	var stat unix.Statfs_t
	err := unix.Statfs(n.Path(), &stat)
	return err == nil && stat.Type == unix.NSFS_MAGIC
}

// Create makes the namespace, its loopback device up, unless it is there. It is marked as ours before it gets its name,
// so that a process killed in between leaves nothing that Delete would not dare to remove. It needs CAP_SYS_ADMIN.
func (n *Namespace) Create() error {
	if n.Exists() {
		return nil
	}
	if err := share(directory); err != nil {
		return fmt.Errorf("create network namespace %s: %w", n.name, err)
	}
	// Without O_EXCL: a file with nothing mounted on it is what a killed process left.
	file, err := os.OpenFile(n.Path(), os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", n.name, err)
	}
	defer file.Close()
	err = Fresh(func() error {
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(loopback, mark); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", n.Path(), "", unix.MS_BIND, "")
	})
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", n.name, err)
	}
	return nil
}

// share makes the folder of names a shared mount, as ip-netns(8) does when it is first used. Names that were there before
// that would be hidden under the mount, and could not be removed.
func share(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	// ip-netns takes this lock too; closing the folder gives it back.
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	err = unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount yet.
		return err
	}
	if err := unix.Mount(path, path, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", path, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// Delete takes the namespace's name away if Create gave it, and leaves any other namespace as it is. What is inside
// lives on for as long as a process is in it. It is idempotent.
func (n *Namespace) Delete() error {
	if n.Host() || !n.Exists() {
		return nil
	}
	ours := false
	err := n.Do(func() error {
		loopback, err := netlink.LinkByName("lo")
		if err == nil {
			ours = loopback.Attrs().Alias == mark
		}
		return err
	})
	if err != nil || !ours {
		return err
	}
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("delete network namespace %s: %w", n.name, err)
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", n.name, err)
	}
	return nil
}

// Do runs a function in the namespace, and returns its error. Sockets that the function opens stay in the namespace,
// whoever uses them later; goroutines that it starts are not in it. A function that panics ends the process.
func (n *Namespace) Do(function func() error) error {
	if n.Host() {
		return function()
	}
	return onThread(func() error {
		file, err := os.Open(n.Path())
		if err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.name, err)
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.name, err)
		}
		return function()
	})
}

// Fresh runs a function in a new namespace without a name, which is gone after it unless the function keeps it. It
// needs CAP_SYS_ADMIN.
func Fresh(function func() error) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return function()
	})
}

// onThread runs a function on a thread of its own, which ends with the function. The first thread of the process is
// spared: it can't end, and /proc/self speaks of it.
func onThread(function func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Never unlocked: a goroutine that ends locked takes its thread along.
		if unix.Gettid() != unix.Getpid() {
			done <- function()
			return
		}
		done <- onThread(function) // As this one is held here, that is another thread.
		runtime.UnlockOSThread()
	}()
	return <-done
}
