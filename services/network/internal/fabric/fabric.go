// Package fabric owns the guests' network on this machine: a bridge with the gateways of the pool, a tap for each guest,
// and the DHCP server that tells each guest the one address it has, all in a network namespace of their own or in the
// process's. It is told which guest has which address, and knows nothing of leases, virtual machines and QEMU.
//
// Its memory is the kernel: what is attached is written on the taps themselves, so that guests and taps outlive the
// process, and the next one finds them as they are. There is no state file to disagree with.
//
// A guest speaks for itself alone: see filter.go.
//
// What stands outside is not touched: by itself, nothing is routed between guests and other networks. The host reaches
// guests through DialContext.
package fabric

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/namespace"
)

// Defaults of Options.
const (
	DefaultBridge = "orlop0"
	DefaultMTU    = 1500
)

// Options say where the guests' network is and what it consists of.
type Options struct {
	Namespace string        // as in ip-netns(8); made if missing. Empty: the namespace that the process is in
	Bridge    string        // device name; DefaultBridge if empty
	Pool      *address.Pool // the guests' CIDRs and their gateways
	MTU       int           // bytes; DefaultMTU if 0
	DNS       []netip.Addr  // name servers that guests are told, if any
	// Virtual are networks that nobody has: whoever rewrites packets in the namespace (a Service's cluster IP) needs that
	// they have a way there at all. In a namespace of our own only.
	Virtual []netip.Prefix
	Log     *slog.Logger // slog.Default() if nil
}

// A Fabric is the guests' network of this machine, on taps. It is safe for concurrent use. Two processes must not own
// the same one at a time.
type Fabric struct {
	options Options
	space   *namespace.Namespace
	log     *slog.Logger

	change   sync.Mutex // held while the machine is changed
	service  *service   // DHCP; nil when it doesn't run
	register register
}

// New checks the options and returns a Fabric. It doesn't touch the machine: Ensure does. The error is an *OptionError
// or a *namespace.NameError.
func New(options Options) (*Fabric, error) {
	if options.Bridge == "" {
		options.Bridge = DefaultBridge
	}
	if options.MTU == 0 {
		options.MTU = DefaultMTU
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if err := options.validate(); err != nil {
		return nil, err
	}
	space, err := namespace.Named(options.Namespace)
	if err != nil {
		return nil, err
	}
	return &Fabric{options: options, space: space, log: options.Log.With("bridge", options.Bridge)}, nil
}

func (o Options) validate() error {
	const leastMTU, mostMTU = 576, 65521 // RFC 791 for IPv4 and what a tap takes
	switch {
	case len(o.Bridge) > maxDeviceName || !deviceName.MatchString(o.Bridge):
		return &OptionError{Option: "bridge", Rule: "must be 1 to 15 letters, digits, dots, dashes and underscores"}
	case o.Pool == nil:
		return &OptionError{Option: "pool", Rule: "is missing"}
	case o.MTU < leastMTU || o.MTU > mostMTU:
		return &OptionError{Option: "MTU", Rule: "must be 576 to 65521 bytes"}
	}
	for _, prefix := range o.Virtual {
		for _, subnet := range o.Pool.Subnets() {
			if prefix.Overlaps(subnet.Prefix) {
				return &OptionError{Option: "pool", Rule: fmt.Sprintf("must not overlap %s, which is taken for Services", prefix)}
			}
		}
	}
	for _, server := range o.DNS {
		if !server.Is4() {
			return &OptionError{Option: "DNS", Rule: "must be IPv4 addresses, as DHCP tells no others"}
		}
	}
	return nil
}

// Ensure makes or repairs whatever of the network is missing, finds the attachments that an earlier process made, and
// starts the DHCP server. What is right is left alone, so it is cheap to call again, as after a failure it should be.
//
// Errors: *ForeignError if the bridge's name belongs to somebody else; others come from the kernel.
func (f *Fabric) Ensure(ctx context.Context) error {
	f.change.Lock()
	defer f.change.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.space.Create(); err != nil {
		return err
	}
	index := 0
	err := f.space.Do(func() error {
		bridge, err := f.ensureBridge()
		if err != nil {
			return err
		}
		index = bridge.Attrs().Index
		return f.ensurePorts(bridge)
	})
	if err != nil {
		return err
	}
	return f.ensureService(ctx, index)
}

// Close stops answering DHCP and leaves all else as it is: guests keep running, and the next process finds them. It
// waits until the server has ended and is idempotent; Ensure starts anew.
func (f *Fabric) Close() error {
	f.change.Lock()
	defer f.change.Unlock()
	return f.stopService()
}

// Destroy closes the Fabric and removes each tap, the bridge, and the namespace, as far as a Fabric made them. Guests
// that still run lose their network. It is idempotent.
func (f *Fabric) Destroy(ctx context.Context) error {
	f.change.Lock()
	defer f.change.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.stopService(); err != nil {
		return err
	}
	if !f.space.Exists() {
		f.register.clear()
		return nil
	}
	if err := f.space.Do(f.removeLinks); err != nil {
		return err
	}
	f.register.clear()
	return f.space.Delete()
}

// DialContext connects to a guest's literal address and port from where guests can be reached.
func (f *Fabric) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f.space.DialContext(ctx, network, address)
}

// Listen listens on a literal address and port where guests can reach it.
func (f *Fabric) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return f.space.Listen(ctx, network, address)
}
