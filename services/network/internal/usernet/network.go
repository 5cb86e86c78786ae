// Package usernet connects guests on a machine where nothing may be made: each guest is alone on QEMU's own network, has
// its leased address there all the same, and is reached through forwarded ports of 127.0.0.1. The package owns the
// choice of those ports and the file that remembers them; the forwarding is QEMU's.
package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"orlop.dev/kit/durable"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
)

// Options say which guests there may be, and which ports lead to them.
type Options struct {
	Pool  *address.Pool
	State string   // path of the file that remembers the ports; its folder exists
	Guest []uint16 // ports of each guest that are forwarded; 22 and 80 if empty
	First uint16   // first port of this machine to use; 22000 if 0
	Last  uint16   // last port of this machine to use; 31999 if 0: below what the kernel gives to clients
}

// A Network is the guests' network of this machine, in user mode. It is safe for concurrent use. Two processes must not
// own the same file at a time.
type Network struct {
	options Options

	lock   sync.Mutex
	guests map[string]guest // by ID; nil until Ensure
}

// A guest is an attachment and the ports that lead to it.
type guest struct {
	fabric.Attachment
	forwards []fabric.Forward
}

// New checks the options and returns a Network. It touches nothing: Ensure does. The error is a *fabric.OptionError.
func New(options Options) (*Network, error) {
	if len(options.Guest) == 0 {
		options.Guest = []uint16{22, 80}
	}
	if options.First == 0 {
		options.First = 22000
	}
	if options.Last == 0 {
		options.Last = 31999
	}
	switch {
	case options.Pool == nil:
		return nil, &fabric.OptionError{Option: "pool", Rule: "is missing"}
	case options.State == "":
		return nil, &fabric.OptionError{Option: "state file", Rule: "is missing"}
	case options.First > options.Last:
		return nil, &fabric.OptionError{Option: "ports", Rule: "must begin before they end"}
	}
	return &Network{options: options}, nil
}

// Ensure reads what an earlier process remembered, once.
func (n *Network) Ensure(ctx context.Context) error {
	n.lock.Lock()
	defer n.lock.Unlock()
	if n.guests != nil || ctx.Err() != nil {
		return ctx.Err()
	}
	guests, err := load(n.options.State)
	if err != nil {
		return fmt.Errorf("read forwarded ports: %w", err)
	}
	n.guests = guests
	return nil
}

// Attach says how a guest is plugged in. It is idempotent: a known ID keeps its ports. They were free when they were
// chosen; should another program have taken one before QEMU did, Detach and Attach choose others.
//
// Errors: *fabric.OptionError, *address.MisfitError, *fabric.ConflictError, *PortsError, fabric.ErrMissing (no Ensure).
func (n *Network) Attach(ctx context.Context, wanted fabric.Attachment) (fabric.Port, error) {
	if err := n.check(wanted); err != nil {
		return fabric.Port{}, err
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	if n.guests == nil {
		return fabric.Port{}, fmt.Errorf("attach %s: %w", wanted.ID, fabric.ErrMissing)
	}
	for _, other := range n.guests {
		if err := wanted.Clash(other.Attachment); err != nil {
			return fabric.Port{}, err
		}
	}
	wanted.Node = ""
	attached := guest{Attachment: wanted, forwards: n.guests[wanted.ID].forwards}
	if len(attached.forwards) == 0 {
		forwards, err := n.forward(ctx)
		if err != nil {
			return fabric.Port{}, err
		}
		attached.forwards = forwards
	}
	if err := n.remember(wanted.ID, &attached); err != nil {
		return fabric.Port{}, fmt.Errorf("attach %s: %w", wanted.ID, err)
	}
	return n.port(attached), nil
}

func (n *Network) check(wanted fabric.Attachment) error {
	if err := wanted.Validate(); err != nil {
		return err
	}
	if !wanted.Address.Is4() {
		return &fabric.OptionError{Option: "address", Rule: "must be IPv4 in user mode"}
	}
	return n.options.Pool.Check(wanted.Address)
}

// Detach gives the guest's ports back. It is idempotent.
func (n *Network) Detach(_ context.Context, id string) error {
	n.lock.Lock()
	defer n.lock.Unlock()
	if _, known := n.guests[id]; !known {
		return nil
	}
	return n.remember(id, nil)
}

// Leave does nothing: a guest has the same ports on every node.
func (n *Network) Leave(context.Context, string, string) error { return nil }

// List returns the attachments by ID.
func (n *Network) List() []fabric.Attachment {
	n.lock.Lock()
	defer n.lock.Unlock()
	attachments := make([]fabric.Attachment, 0, len(n.guests))
	for _, id := range sortedIDs(n.guests) {
		attachments = append(attachments, n.guests[id].Attachment)
	}
	return attachments
}

// Close does nothing: there is nothing that runs.
func (n *Network) Close() error { return nil }

// Destroy forgets all guests and removes the file. It is idempotent.
func (n *Network) Destroy(context.Context) error {
	n.lock.Lock()
	defer n.lock.Unlock()
	if err := durable.Remove(n.options.State); err != nil {
		return err
	}
	n.guests = nil
	return nil
}

// DialContext connects to a guest's literal address and port by the forwarded port that leads there. The error is a
// *ForwardError if there is none.
func (n *Network) DialContext(ctx context.Context, network, target string) (net.Conn, error) {
	host, found := n.forwarded(target)
	if !found {
		return nil, &ForwardError{Target: target}
	}
	return new(net.Dialer).DialContext(ctx, network, host.String())
}

func (n *Network) forwarded(target string) (netip.AddrPort, bool) {
	wanted, err := netip.ParseAddrPort(target)
	if err != nil {
		return netip.AddrPort{}, false
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	for _, guest := range n.guests {
		if guest.Address != wanted.Addr() {
			continue
		}
		at := slices.IndexFunc(guest.forwards, func(f fabric.Forward) bool { return f.Guest == wanted.Port() })
		if at >= 0 {
			return guest.forwards[at].Host, true
		}
	}
	return netip.AddrPort{}, false
}

func (n *Network) port(g guest) fabric.Port {
	subnet, _ := n.options.Pool.Lookup(g.Address)
	port := fabric.NewPort(g.Attachment, subnet)
	port.Mode = fabric.User
	port.MTU = fabric.DefaultMTU
	port.Forwards = slices.Clone(g.forwards)
	return port
}
