package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
)

var ctx = context.Background()

func freshOptions(t *testing.T) Options {
	t.Helper()
	pool, err := address.ParsePool([]string{"10.66.10.0/24", "fd66::/64"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Pool: pool, State: filepath.Join(t.TempDir(), "ports.json")}
}

func started(t *testing.T, options Options) *Network {
	t.Helper()
	network, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := network.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	return network
}

func attachment(id, at string) fabric.Attachment {
	return fabric.Attachment{ID: id, MAC: address.DeriveMAC(id, 0).Hardware(), Address: netip.MustParseAddr(at), Hostname: id}
}

func attach(t *testing.T, network *Network, a fabric.Attachment) fabric.Port {
	t.Helper()
	port, err := network.Attach(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestAttachForwardsFreePortsAndKeepsThem(t *testing.T) {
	options := freshOptions(t)
	network := started(t, options)
	port := attach(t, network, attachment("web", "10.66.10.14"))
	if port.Mode != fabric.User || port.Address.String() != "10.66.10.14/23" || port.Network.String() != "10.66.10.0/23" ||
		len(port.Forwards) != 2 || port.Forwards[0].Guest != 22 || port.Forwards[1].Guest != 80 {
		t.Fatalf("port is %+v", port)
	}
	for _, forward := range port.Forwards {
		listener, err := net.Listen("tcp", forward.Host.String())
		if err != nil || !forward.Host.Addr().IsLoopback() {
			t.Fatalf("port %s isn't free: %v", forward.Host, err)
		}
		defer listener.Close() // As QEMU listens: the ports are kept all the same.
	}
	if again := attach(t, network, attachment("web", "10.66.10.14")); !slices.Equal(again.Forwards, port.Forwards) {
		t.Errorf("ports are %v, were %v", again.Forwards, port.Forwards)
	}
	next := started(t, options)
	if listed := next.List(); len(listed) != 1 || listed[0].ID != "web" || listed[0].Hostname != "web" {
		t.Errorf("the next process lists %v", listed)
	}
	if again := attach(t, next, attachment("web", "10.66.10.14")); !slices.Equal(again.Forwards, port.Forwards) {
		t.Errorf("the next process has ports %v, were %v", again.Forwards, port.Forwards)
	}
}

func TestPortsAreNeverForwardedTwice(t *testing.T) {
	options := freshOptions(t)
	options.First, options.Last = 22100, 22100+127
	network := started(t, options)
	var lock sync.Mutex
	seen := map[netip.AddrPort]bool{}
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			port, err := network.Attach(ctx, attachment(fmt.Sprint("vm", i), fmt.Sprint("10.66.10.", i+1)))
			if err != nil {
				t.Error(err)
			}
			lock.Lock()
			defer lock.Unlock()
			for _, forward := range port.Forwards {
				if seen[forward.Host] {
					t.Errorf("%s is forwarded twice", forward.Host)
				}
				seen[forward.Host] = true
			}
		})
	}
	group.Wait()
}

func TestPortsRunOutAndComeBack(t *testing.T) {
	options := freshOptions(t)
	options.First, options.Last = 22300, 22302
	occupied, err := net.Listen("tcp", "127.0.0.1:22301")
	if err != nil {
		t.Skip("another program has port 22301")
	}
	defer occupied.Close()
	network := started(t, options)
	attach(t, network, attachment("web", "10.66.10.14"))
	var short *PortsError
	if _, err := network.Attach(ctx, attachment("db", "10.66.10.15")); !errors.As(err, &short) {
		t.Errorf("got %v, want a *PortsError", err)
	}
	for range 2 {
		if err := network.Detach(ctx, "web"); err != nil {
			t.Fatal(err)
		}
	}
	attach(t, network, attachment("db", "10.66.10.15"))
}

func TestAttachRefusesWhatCannotBe(t *testing.T) {
	network := started(t, freshOptions(t))
	attach(t, network, attachment("web", "10.66.10.14"))
	var option *fabric.OptionError
	var misfit *address.MisfitError
	var conflict *fabric.ConflictError
	for name, test := range map[string]struct {
		wanted fabric.Attachment
		class  any
	}{
		"no ID":         {attachment("", "10.66.10.15"), &option},
		"IPv6":          {attachment("db", "fd66::1"), &option},
		"outside":       {attachment("db", "10.67.0.1"), &misfit},
		"address taken": {attachment("db", "10.66.10.14"), &conflict},
	} {
		if _, err := network.Attach(ctx, test.wanted); !errors.As(err, test.class) {
			t.Errorf("%s: %v, want a %T", name, err, test.class)
		}
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	good := freshOptions(t)
	for name, spoil := range map[string]func(*Options){
		"no pool":        func(o *Options) { o.Pool = nil },
		"no state file":  func(o *Options) { o.State = "" },
		"ports reversed": func(o *Options) { o.First, o.Last = 2, 1 },
	} {
		options := good
		spoil(&options)
		var refused *fabric.OptionError
		if _, err := New(options); !errors.As(err, &refused) {
			t.Errorf("%s: %v, want a *fabric.OptionError", name, err)
		}
	}
}

func TestStateThatCannotBeReadOrWrittenIsAnError(t *testing.T) {
	options := freshOptions(t)
	if err := os.WriteFile(options.State, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	if err := broken.Ensure(ctx); err == nil {
		t.Error("a broken state file was read as if it were empty: its ports would be given again")
	}
	if _, err := broken.Attach(ctx, attachment("web", "10.66.10.14")); !errors.Is(err, fabric.ErrMissing) {
		t.Errorf("Attach() = %v, want ErrMissing", err)
	}
	options.State = filepath.Join(t.TempDir(), "missing", "ports.json")
	lost := started(t, options)
	if _, err := lost.Attach(ctx, attachment("web", "10.66.10.14")); err == nil || len(lost.List()) != 0 {
		t.Errorf("Attach() = %v, List() = %v: what isn't durable must not be told", err, lost.List())
	}
}

func TestDialGoesThroughTheForwardedPort(t *testing.T) {
	network := started(t, freshOptions(t))
	port := attach(t, network, attachment("web", "10.66.10.14"))
	listener, err := net.Listen("tcp", port.Forwards[0].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.WriteString(conn, "SSH") // the other end tells
			conn.Close()
		}
	}()
	conn, err := network.DialContext(ctx, "tcp", "10.66.10.14:22")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := io.ReadAll(conn); err != nil || string(said) != "SSH" {
		t.Errorf("heard %q, %v", said, err)
	}
	for _, target := range []string{"10.66.10.14:23", "10.66.10.15:22", "web:22"} {
		var refused *ForwardError
		if _, err := network.DialContext(ctx, "tcp", target); !errors.As(err, &refused) {
			t.Errorf("dial %s: %v, want a *ForwardError", target, err)
		}
	}
}

func TestDestroyLeavesNothing(t *testing.T) {
	options := freshOptions(t)
	network := started(t, options)
	attach(t, network, attachment("web", "10.66.10.14"))
	for range 2 {
		if err := network.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Dir(options.State))
	if err != nil || len(left) != 0 || len(network.List()) != 0 {
		t.Errorf("left are %v, %v, %v", left, network.List(), err)
	}
}
