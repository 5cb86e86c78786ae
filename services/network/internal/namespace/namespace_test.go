package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serial tells the namespaces of this process's tests apart.
var serial atomic.Int64

func unique(t *testing.T) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	space, err := Named(fmt.Sprintf("orlop-test-%d-%d", os.Getpid(), serial.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.Delete(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(space.Path()); err == nil {
			t.Errorf("%s is left over", space.Path())
		}
	})
	return space
}

func TestNamedRefusesBadNames(t *testing.T) {
	for _, name := range []string{"..", "a/b", "-n", "a b", "é", string(make([]byte, 65))} {
		var refused *NameError
		if _, err := Named(name); !errors.As(err, &refused) {
			t.Errorf("Named(%q) = %v, want a *NameError", name, err)
		}
	}
}

func TestCreateIsIdempotentAndRepairsWhatAKilledProcessLeft(t *testing.T) {
	space := unique(t)
	if space.Exists() {
		t.Fatal("exists before it was made")
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(space.Path(), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := space.Create(); err != nil {
			t.Fatal(err)
		}
		if !space.Exists() {
			t.Fatal("doesn't exist after it was made")
		}
	}
}

func TestTheFolderOfNamesBecomesAMountOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	path := t.TempDir()
	for range 2 {
		if err := share(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Unmount(path, 0); err != nil {
		t.Fatalf("it is no mount: %v", err)
	}
	if err := unix.Unmount(path, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("it was mounted twice: %v", err)
	}
}

func TestDeleteLeavesWhatItDidNotMake(t *testing.T) {
	space := unique(t)
	if err := space.Create(); err != nil {
		t.Fatal(err)
	}
	alias := func(text string) {
		err := space.Do(func() error {
			loopback, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetAlias(loopback, text)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	alias("somebody else's")
	if err := space.Delete(); err != nil || !space.Exists() {
		t.Errorf("Delete() = %v, exists %t: a foreign namespace must stay", err, space.Exists())
	}
	alias(mark)
}

func TestDoIsInsideAndNothingElseIs(t *testing.T) {
	space := unique(t)
	if err := space.Create(); err != nil {
		t.Fatal(err)
	}
	outside, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			inside := ""
			err := space.Do(func() (err error) {
				inside, err = os.Readlink("/proc/thread-self/ns/net")
				return err
			})
			if err != nil || inside == outside {
				t.Errorf("inside is %q, outside is %q: %v", inside, outside, err)
			}
		})
		group.Go(func() {
			if here, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || here != outside {
				t.Errorf("a thread was left in %q: %v", here, err)
			}
		})
	}
	group.Wait()
	if process, err := os.Readlink("/proc/self/ns/net"); err != nil || process != outside {
		t.Errorf("the process is in %q, want %q: %v", process, outside, err)
	}
}

func TestDialAndListenMeetInsideOnly(t *testing.T) {
	space := unique(t)
	if err := space.Create(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	listener, err := space.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			fmt.Fprint(conn, "inside")
			conn.Close()
		}
	}()
	target := listener.Addr().String()
	if conn, err := net.Dial("tcp", target); err == nil {
		conn.Close()
		t.Error("reached from outside")
	}
	conn, err := space.DialContext(ctx, "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := io.ReadAll(conn); err != nil || string(said) != "inside" {
		t.Errorf("heard %q, %v", said, err)
	}
}

func TestDialRefusesNamesAndCancelledContexts(t *testing.T) {
	space, err := Named("")
	if err != nil {
		t.Fatal(err)
	}
	var refused *AddressError
	if _, err := space.DialContext(context.Background(), "tcp", "localhost:80"); !errors.As(err, &refused) {
		t.Errorf("dialing a name: %v, want an *AddressError", err)
	}
	if _, err := space.Listen(context.Background(), "tcp", ":80"); !errors.As(err, &refused) {
		t.Errorf("listening nowhere: %v, want an *AddressError", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := space.DialContext(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled dial: %v", err)
	}
}

func TestFreshLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	names := 0
	err := Fresh(func() error {
		links, err := netlink.LinkList()
		names = len(links)
		return err
	})
	if err != nil || names == 0 {
		t.Fatalf("%d devices, %v", names, err)
	}
	failure := errors.New("inside")
	if err := Fresh(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
}
