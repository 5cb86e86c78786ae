package usernet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"orlop.dev/services/network/internal/fabric"
)

// A PortsError says that too few ports of this machine are free.
type PortsError struct{ First, Last uint16 }

func (e *PortsError) Error() string {
	return fmt.Sprintf("too few free ports on 127.0.0.1 between %d and %d", e.First, e.Last)
}

// A ForwardError says that no forwarded port leads to an address and port.
type ForwardError struct{ Target string }

func (e *ForwardError) Error() string {
	return fmt.Sprintf("no forwarded port leads to %q: guests in user mode are reached by no other way", e.Target)
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// forward chooses a free port of this machine for each forwarded port of a new guest.
func (n *Network) forward(ctx context.Context) ([]fabric.Forward, error) {
	used := map[uint16]bool{}
	for _, guest := range n.guests {
		for _, forward := range guest.forwards {
			used[forward.Host.Port()] = true
		}
	}
	var forwards []fabric.Forward
	count := int(n.options.Last-n.options.First) + 1
	start := rand.IntN(count) // Not the lowest: one just given up may still have clients that mean its former guest.
	for i := range count {
		if len(forwards) == len(n.options.Guest) {
			break
		}
		host := netip.AddrPortFrom(loopback, n.options.First+uint16((start+i)%count))
		if used[host.Port()] || !free(ctx, host) {
			continue
		}
		forwards = append(forwards, fabric.Forward{Host: host, Guest: n.options.Guest[len(forwards)]})
	}
	if len(forwards) < len(n.options.Guest) {
		return nil, &PortsError{First: n.options.First, Last: n.options.Last}
	}
	return forwards, nil
}

// free says whether nobody listens on a port.
func free(ctx context.Context, host netip.AddrPort) bool {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp4", host.String())
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
