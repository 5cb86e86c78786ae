package fabric

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/namespace"
)

// serial tells the namespaces of this process's tests apart.
var serial atomic.Int64

func needRoot(t *testing.T) {
	t.Helper()
	if mode, reason := Probe(); mode != Tap {
		t.Skip("needs a bridge and taps: " + reason)
	}
}

// freshOptions name a namespace that no other test has, and see to it that nothing of it stays.
func freshOptions(t *testing.T, cidrs ...string) Options {
	t.Helper()
	needRoot(t)
	pool, err := address.ParsePool(cidrs, nil)
	if err != nil {
		t.Fatal(err)
	}
	options := Options{Namespace: fmt.Sprintf("orlop-test-%d-%d", os.Getpid(), serial.Add(1)), Pool: pool, MTU: 1400}
	t.Cleanup(func() {
		last := newFabric(t, options)
		if err := last.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(last.space.Path()); err == nil {
			t.Errorf("%s is left over", last.space.Path())
		}
	})
	return options
}

func newFabric(t *testing.T, options Options) *Fabric {
	t.Helper()
	f, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// started is a Fabric that is up.
func started(t *testing.T, options Options) *Fabric {
	t.Helper()
	f := newFabric(t, options)
	if err := f.Ensure(context.Background()); err != nil {
		t.Fatal(err)
	}
	return f
}

// card is a MAC of its own for each guest.
func card(id string) net.HardwareAddr { return address.DeriveMAC(id, 0).Hardware() }

func attachment(id, at string) Attachment {
	return Attachment{ID: id, MAC: card(id), Address: netip.MustParseAddr(at), Hostname: id}
}

func attach(t *testing.T, f *Fabric, a Attachment) Port {
	t.Helper()
	port, err := f.Attach(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// inside runs a function in the Fabric's namespace.
func inside(t *testing.T, f *Fabric, function func() error) {
	t.Helper()
	if err := f.space.Do(function); err != nil {
		t.Fatal(err)
	}
}

// device looks for a device in the Fabric's namespace.
func device(t *testing.T, f *Fabric, name string) (link netlink.Link, found bool) {
	t.Helper()
	inside(t, f, func() (err error) {
		link, err = netlink.LinkByName(name)
		if isMissing(err) {
			return nil
		}
		found = err == nil
		return err
	})
	return link, found
}

// hold opens a tap as QEMU does, until the test ends.
func hold(t *testing.T, f *Fabric, tap string) *os.File {
	t.Helper()
	var file *os.File
	inside(t, f, func() error {
		descriptor, err := openTap(tap)
		file = os.NewFile(uintptr(descriptor), tap)
		return err
	})
	t.Cleanup(func() { file.Close() })
	return file
}

// A stand is what stands in for a guest: a namespace whose eth0 is plugged into the bridge.
type stand struct {
	*namespace.Namespace
}

func plugIn(t *testing.T, f *Fabric, mac net.HardwareAddr) stand {
	t.Helper()
	number := serial.Add(1)
	space, err := namespace.Named(fmt.Sprintf("orlop-test-%d-%d", os.Getpid(), number))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.Delete(); err != nil {
			t.Error(err)
		}
	})
	if err := space.Create(); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(space.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inside(t, f, func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = fmt.Sprintf("port%d", number)
		attributes.MTU = 1400
		cable := &netlink.Veth{
			LinkAttrs: attributes, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(file.Fd()),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(f.options.Bridge)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(cable, bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(cable)
	})
	guest := stand{space}
	guest.do(t, netlink.LinkSetUp)
	return guest
}

func (s stand) do(t *testing.T, function func(eth0 netlink.Link) error) {
	t.Helper()
	err := s.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return function(eth0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// configure gives the guest what a static configuration of its port says.
func (s stand) configure(t *testing.T, port Port) {
	t.Helper()
	s.do(t, func(eth0 netlink.Link) error {
		own := &netlink.Addr{IPNet: ipNet(port.Address), Flags: 0x2} // without duplicate address detection
		if err := netlink.AddrAdd(eth0, own); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: port.Gateway.AsSlice()})
	})
}

// greet serves one word on port 80 of the guest until the test ends.
func (s stand) greet(t *testing.T, at netip.Addr, word string) string {
	t.Helper()
	listener, err := s.Listen(context.Background(), "tcp", netip.AddrPortFrom(at, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, word, " ", conn.RemoteAddr().(*net.TCPAddr).IP)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}
