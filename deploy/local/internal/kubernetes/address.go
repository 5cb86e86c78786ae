package kubernetes

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// A reservation keeps a TCP address for a child that will listen on it: a socket that is bound but doesn't listen. Nobody is given the port by
// chance meanwhile, while the child, whose socket has SO_REUSEADDR as every Go listener's, may bind it too.
type reservation struct {
	address netip.AddrPort
	socket  int
}

// reserve takes the address, choosing a port if it is 0. An address that somebody listens on is EADDRINUSE.
func reserve(address netip.AddrPort) (*reservation, error) {
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(address.Port()), Addr: address.Addr().As16()})
	if address.Addr().Is4() {
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}
	}
	socket, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	r := &reservation{address: address, socket: socket}
	if err := r.bind(sockaddr); err != nil {
		r.release()
		return nil, err
	}
	return r, nil
}

func (r *reservation) bind(sockaddr unix.Sockaddr) error {
	if err := unix.SetsockoptInt(r.socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(r.socket, sockaddr); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(r.socket)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	r.address = netip.AddrPortFrom(r.address.Addr(), port(bound))
	return nil
}

func (r *reservation) release() { _ = unix.Close(r.socket) }

func port(address unix.Sockaddr) uint16 {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	default:
		return 0
	}
}
