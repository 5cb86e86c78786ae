package namespace

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// maxDials bounds the connections that are being opened at once, as each takes a thread while it is.
const maxDials = 256

// An AddressError says that a text is no address and port: names are not looked up in a namespace.
type AddressError struct{ Address string }

func (e *AddressError) Error() string {
	return fmt.Sprintf("%q is not an IP address and a port", e.Address)
}

// DialContext connects, as net.Dialer does, from inside the namespace to a literal address and port. The connection can
// be used from anywhere.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, &AddressError{Address: address}
	}
	select {
	case n.dials <- struct{}{}:
		defer func() { <-n.dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		// One literal address is dialed by the calling goroutine; several would be raced by others, elsewhere.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens, as net.Listen does, inside the namespace on a literal address and port.
func (n *Namespace) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, &AddressError{Address: address}
	}
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return listener, err
}
