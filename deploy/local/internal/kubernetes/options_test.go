package kubernetes

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

func TestOptionsThatCannotBeWorkedWith(t *testing.T) {
	usable := Options{Binary: os.Args[0], Dir: "state", Etcd: Etcd{Endpoints: []string{"http://127.0.0.1:2379"}}}
	if _, err := usable.complete(); err != nil {
		t.Fatalf("usable options: %v", err)
	}
	cases := map[string]func(*Options){
		"no binary":             func(o *Options) { o.Binary = "/none" },
		"no directory":          func(o *Options) { o.Dir = "" },
		"no etcd":               func(o *Options) { o.Etcd.Endpoints = nil },
		"half of etcd's TLS":    func(o *Options) { o.Etcd.CAFile = "ca.crt" },
		"every address":         func(o *Options) { o.Address = netip.MustParseAddrPort("0.0.0.0:6443") },
		"a port of no address":  func(o *Options) { o.Address = netip.AddrPortFrom(netip.Addr{}, 6443) },
		"a nameless user":       func(o *Options) { o.Users = []User{{}} },
		"two users of one name": func(o *Options) { o.Users = []User{{Name: "jane"}, {Name: "jane"}} },
		"a user of the admin's": func(o *Options) { o.Users = []User{{Name: Admin}} },
		"the controllers' user": func(o *Options) { o.Users = []User{{Name: controllerManagerUser}} },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			options := usable
			spoil(&options)
			if _, err := options.complete(); !errors.Is(err, ErrOptions) {
				t.Errorf("got %v, want ErrOptions", err)
			}
		})
	}
}

func TestReservation(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			r, err := reserve(netip.MustParseAddrPort(address))
			check(t, err)
			defer r.release()
			if r.address.Port() == 0 {
				t.Error("no port was chosen")
			}
			listener, err := net.Listen("tcp", r.address.String())
			if err != nil {
				t.Fatalf("the one that it is kept for can't have it: %v", err)
			}
			defer listener.Close()
			if _, err := reserve(r.address); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("reserved while somebody listens: %v, want EADDRINUSE", err)
			}
		})
	}
}
