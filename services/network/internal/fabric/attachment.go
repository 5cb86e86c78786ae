package fabric

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"github.com/vishvananda/netlink"
	"orlop.dev/services/network/internal/address"
)

// An Attachment is the wish that one guest is on the network, with one address.
type Attachment struct {
	ID       string // the guest's, unique on this machine: 1 to 64 printable ASCII characters without spaces
	Node     string // where the guest is, as it moves from node to node; it has a tap on each. May be empty
	MAC      net.HardwareAddr
	Address  netip.Addr // of the pool; DHCP tells an IPv4 one, while the guest has to be given an IPv6 one by other means
	Hostname string     // told by DHCP if not empty; up to 63 letters, digits, dots and dashes
}

var (
	identifier = regexp.MustCompile(`^[!-~]{1,64}$`)
	hostname   = regexp.MustCompile(`^[A-Za-z0-9.-]{0,63}$`)
	deviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
)

// Validate returns an *OptionError if no network could make this attachment, whatever its pool.
func (a Attachment) Validate() error {
	switch {
	case !identifier.MatchString(a.ID):
		return &OptionError{Option: "ID", Rule: "must be 1 to 64 printable ASCII characters without spaces"}
	case !hostname.MatchString(a.Node):
		return &OptionError{Option: "node", Rule: "must be up to 63 letters, digits, dots and dashes"}
	case len(a.MAC) != 6 || a.MAC[0]&1 != 0:
		return &OptionError{Option: "MAC", Rule: "must be the address of one Ethernet card"}
	case !a.Address.IsValid():
		return &OptionError{Option: "address", Rule: "is missing"}
	case !hostname.MatchString(a.Hostname):
		return &OptionError{Option: "hostname", Rule: "must be up to 63 letters, digits, dots and dashes"}
	}
	return nil
}

// Clash returns a *ConflictError if two guests can't both be on one network.
func (a Attachment) Clash(other Attachment) error {
	switch {
	case a.ID == other.ID:
	case a.Address == other.Address:
		return &ConflictError{ID: other.ID, Claim: "address " + a.Address.String()}
	case bytes.Equal(a.MAC, other.MAC):
		return &ConflictError{ID: other.ID, Claim: "MAC " + a.MAC.String()}
	}
	return nil
}

// Attach puts a guest on the network of a node and says how it is plugged in. It is idempotent, and never makes anew a tap that is
// there, as QEMU may hold it; for a known ID with another MAC, address or hostname it changes what DHCP answers.
//
// Errors: *OptionError, *address.MisfitError, *ConflictError (another guest has the address or the MAC), *ForeignError,
// ErrMissing (Ensure was not called, or somebody removed the bridge).
func (f *Fabric) Attach(ctx context.Context, wanted Attachment) (Port, error) {
	if err := wanted.Validate(); err != nil {
		return Port{}, err
	}
	if err := f.options.Pool.Check(wanted.Address); err != nil {
		return Port{}, err
	}
	f.change.Lock()
	defer f.change.Unlock()
	if err := ctx.Err(); err != nil {
		return Port{}, err
	}
	if err := f.register.clash(wanted); err != nil {
		return Port{}, err
	}
	if !f.space.Exists() {
		return Port{}, fmt.Errorf("attach %s: %w", wanted.ID, ErrMissing)
	}
	err := f.space.Do(func() error {
		bridge, err := f.findBridge()
		if err != nil {
			return err
		}
		return f.plug(bridge, wanted)
	})
	if err != nil {
		return Port{}, fmt.Errorf("attach %s: %w", wanted.ID, err)
	}
	return f.port(wanted), nil
}

// plug makes the kernel and the DHCP server agree with an attachment.
func (f *Fabric) plug(bridge netlink.Link, wanted Attachment) error {
	former, known := f.register.get(wanted.place())
	if !known || former.note() != wanted.note() {
		// First: a tap that the filter doesn't know would pass everything.
		if err := f.filter(former, wanted); err != nil {
			return err
		}
	}
	if err := f.ensureTap(bridge, wanted); err != nil {
		return err
	}
	f.register.put(wanted)
	if known && former.Address != wanted.Address {
		if err := forget(bridge, former.Address); err != nil {
			return err
		}
	}
	return introduce(bridge, wanted)
}

// Detach takes a guest off the network and removes its taps. Who calls it has stopped the guest, or means to cut it off.
// It is idempotent.
func (f *Fabric) Detach(ctx context.Context, id string) error {
	f.change.Lock()
	defer f.change.Unlock()
	for _, at := range append(f.register.places(id), place{id: id}) {
		if err := f.unplug(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// Leave removes a guest's tap on one node, which it has left. It is idempotent.
func (f *Fabric) Leave(ctx context.Context, id, node string) error {
	f.change.Lock()
	defer f.change.Unlock()
	return f.unplug(ctx, place{id, node})
}

// unplug removes one tap. The host forgets the guest's address with its last.
func (f *Fabric) unplug(ctx context.Context, at place) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !f.space.Exists() {
		f.register.remove(at)
		return nil
	}
	err := f.space.Do(func() error { return f.pull(at) })
	if err != nil {
		return fmt.Errorf("detach %s: %w", at.id, err)
	}
	f.register.remove(at)
	return nil
}

// pull makes the kernel forget one tap.
func (f *Fabric) pull(at place) error {
	former, known := f.register.get(at)
	if known && len(f.register.places(at.id)) == 1 {
		if bridge, err := f.findBridge(); err == nil {
			if err := forget(bridge, former.Address); err != nil {
				return err
			}
		}
	}
	if err := f.removeTap(at); err != nil || !known {
		return err
	}
	return f.unfilter(former)
}

// List returns the attachments that this process made, or found when it called Ensure, by ID.
func (f *Fabric) List() []Attachment { return f.register.all() }

// port describes how a guest is plugged in.
func (f *Fabric) port(a Attachment) Port {
	subnet, _ := f.options.Pool.Lookup(a.Address)
	port := NewPort(a, subnet)
	port.Mode = Tap
	port.MTU = f.options.MTU
	port.DNS = slices.Clone(f.options.DNS)
	port.Tap = f.tapName(a.place())
	port.Namespace = f.space.Path()
	return port
}

// NewPort describes what a guest of a subnet configures, however it is plugged in.
func NewPort(a Attachment, subnet address.Subnet) Port {
	return Port{
		ID: a.ID, MAC: a.MAC, Hostname: a.Hostname,
		Address: subnet.Interface(a.Address), Gateway: subnet.Gateway, Network: subnet.Link,
	}
}
