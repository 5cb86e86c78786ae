package local

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"orlop.dev/facade/home"
)

// occupied returns a port that somebody listens on.
func occupied(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // nothing was written
	return netip.MustParseAddrPort(listener.Addr().String()).Port()
}

// vacant returns a port that somebody listened on just now.
func vacant(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(listener.Addr().String()).Port()
}

func newOpening(t *testing.T, former home.Endpoints) *opening {
	t.Helper()
	return &opening{ctx: t.Context(), former: former, doors: &doors{endpoints: home.Endpoints{}}}
}

func TestDoorOpensAnywhereWhereItsDefaultIsTaken(t *testing.T) {
	taken := occupied(t)
	o := newOpening(t, nil)
	address := o.choose(door{name: home.REST, flag: "rest-port", preferred: taken})
	if o.err != nil {
		t.Fatal(o.err)
	}
	if address.Port() == taken || o.doors.endpoints[home.REST] != address.String() {
		t.Errorf("got %s, recorded %v", address, o.doors.endpoints)
	}
	if len(o.moved) != 1 {
		t.Errorf("told %q, want a sentence", o.moved)
	}
}

func TestDoorStaysWhereItWas(t *testing.T) {
	former := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), vacant(t)).String()
	o := newOpening(t, home.Endpoints{home.REST: former})
	address := o.choose(door{name: home.REST, flag: "rest-port", preferred: vacant(t)})
	if o.err != nil || address.String() != former {
		t.Errorf("got %s, %v, want %s", address, o.err, former)
	}
	if len(o.moved) != 0 {
		t.Errorf("told %q about a door that didn't move", o.moved)
	}
}

func TestPortThatTheUserNamedIsNotReplaced(t *testing.T) {
	taken := occupied(t)
	o := newOpening(t, nil)
	o.choose(door{name: home.REST, flag: "rest-port", wanted: taken, preferred: vacant(t)})
	refused := new(TakenError)
	if !errors.As(o.err, &refused) || refused.Port != taken || !errors.Is(o.err, syscall.EADDRINUSE) {
		t.Errorf("got %v", o.err)
	}
}
