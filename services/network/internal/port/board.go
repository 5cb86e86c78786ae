// Package port plugs guests into this machine's network: whoever runs with a
// VirtualMachineIPAddress has a port, and nobody else.
//
// It must not know how addresses are given, nor what the network is made of.
package port

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"sync"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
)

// Reasons of faults.
const (
	ReasonNetworkNotReady = "NetworkNotReady"
	ReasonAddressConflict = "AddressConflict"
	reasonReleased        = "VirtualMachineIPAddressReleased"
)

// Network is what guests are plugged into: a fabric.Fabric or a usernet.Network.
type Network interface {
	Ensure(ctx context.Context) error
	Attach(ctx context.Context, wanted fabric.Attachment) (fabric.Port, error)
	// Detach ends all of a guest's ports, Leave the one that it has on a node.
	Detach(ctx context.Context, id string) error
	Leave(ctx context.Context, id, node string) error
	List() []fabric.Attachment
}

// Addresses are the VirtualMachineIPAddresses: a resource.Collection.
type Addresses interface {
	Get(key resource.Key) (*networkv1.VirtualMachineIPAddress, error)
}

// Cards are the VirtualMachineMACAddresses.
type Cards interface {
	// Card returns the MAC that a VM has claimed, by the VM's UID. Class NotReady if
	// it has none.
	Card(namespace, uid string) (address.MAC, error)
}

// Board is where guests are plugged in. It is safe for concurrent use.
type Board struct {
	Network   Network
	Addresses Addresses
	Cards     Cards
	Pool      *address.Pool
	Mode      fabric.Mode

	// change is held from the look at who runs with an address to the deed, so
	// that a port made for a new claim isn't taken away for the last one's end.
	change sync.Mutex
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9.-]{1,63}$`)

// Plug makes the port of a holder that runs, on its node, and describes that of
// one that doesn't: if it did before, its port goes. One that moves has a port on
// its target too, which is described then; that of a node that it left goes.
// Idempotent.
func (b *Board) Plug(ctx context.Context, key resource.Key, holderUID string) (*networkv1.Port, error) {
	b.change.Lock()
	defer b.change.Unlock()
	ip, err := b.Addresses.Get(key)
	if err != nil {
		return nil, err
	}
	holder := holderOf(ip, holderUID)
	if holder == nil {
		return nil, fault.New(fault.Stale, reasonReleased, "the claim of VirtualMachineIPAddress %s was ended", key)
	}
	wanted, err := attachment(ip, holder)
	if err != nil {
		return nil, err
	}
	mac, err := b.Cards.Card(key.Namespace, holderUID)
	switch {
	case err == nil:
		wanted.MAC = mac.Hardware()
	case holder.GetActive() || !fault.Is(err, fault.NotReady):
		return nil, err
	}
	if holder.GetActive() {
		return b.plugActive(ctx, wanted, holder)
	}
	if err := b.Network.Detach(ctx, wanted.ID); err != nil {
		return nil, classify(err)
	}
	subnet, _ := b.Pool.Lookup(wanted.Address)
	planned := fabric.NewPort(wanted, subnet)
	planned.Mode = b.Mode
	return describe(planned), nil
}

func (b *Board) plugActive(ctx context.Context, wanted fabric.Attachment, holder *metav1.Holder) (*networkv1.Port, error) {
	var made fabric.Port
	for _, node := range nodesOf(holder) {
		wanted.Node = node
		var err error
		if made, err = b.Network.Attach(ctx, wanted); err != nil {
			return nil, classify(err)
		}
	}
	return describe(made), b.leaveOthers(ctx, wanted.ID, holder)
}

// nodesOf are where a holder is plugged in, its target last.
func nodesOf(holder *metav1.Holder) []string {
	if target := holder.GetTargetNode(); target != "" {
		return []string{holder.GetNode(), target}
	}
	return []string{holder.GetNode()}
}

// leaveOthers takes the ports away on nodes where the holder is no more. One
// without a node is everywhere.
func (b *Board) leaveOthers(ctx context.Context, id string, holder *metav1.Holder) error {
	for _, plugged := range b.Network.List() {
		if plugged.ID != id || plugged.Node == "" || slices.Contains(nodesOf(holder), plugged.Node) {
			continue
		}
		if err := b.Network.Leave(ctx, id, plugged.Node); err != nil {
			return classify(err)
		}
	}
	return nil
}

// Settle takes the ports away of an address that nobody runs with, or that are
// not where its holder runs. Idempotent.
func (b *Board) Settle(ctx context.Context, key resource.Key, uid string) error {
	b.change.Lock()
	defer b.change.Unlock()
	ip, err := b.Addresses.Get(key)
	switch {
	case err != nil && !fault.Is(err, fault.NotFound):
		return err
	case err == nil && ip.GetMetadata().GetUid() == uid && resource.Held(ip):
		for _, holder := range ip.GetMetadata().GetHolders() {
			if holder.GetActive() {
				return b.leaveOthers(ctx, uid, holder)
			}
		}
		return nil
	}
	return classify(b.Network.Detach(ctx, uid))
}

// Unplug takes a guest off the network, whoever runs with its address.
// Idempotent.
func (b *Board) Unplug(ctx context.Context, uid string) error {
	b.change.Lock()
	defer b.change.Unlock()
	return classify(b.Network.Detach(ctx, uid))
}

// Prune takes the ports away that no address of all claims: those of a process
// that was killed between two steps. all must be read by a call of the function,
// after the ports were.
func (b *Board) Prune(ctx context.Context, all func() ([]*networkv1.VirtualMachineIPAddress, error)) error {
	plugged := b.Network.List()
	if len(plugged) == 0 {
		return nil
	}
	addresses, err := all()
	if err != nil {
		return err
	}
	keys := make(map[string]resource.Key, len(addresses))
	for _, ip := range addresses {
		keys[ip.GetMetadata().GetUid()] = resource.KeyOf(ip)
	}
	var failures []error
	for _, guest := range plugged {
		// Without a key nothing is found, and so the port goes.
		failures = append(failures, b.Settle(ctx, keys[guest.ID], guest.ID))
	}
	return errors.Join(failures...)
}

func holderOf(ip *networkv1.VirtualMachineIPAddress, uid string) *metav1.Holder {
	for _, holder := range ip.GetMetadata().GetHolders() {
		if holder.GetUid() == uid {
			return holder
		}
	}
	return nil
}

// attachment is what the network is told of a holder, but its MAC.
func attachment(ip *networkv1.VirtualMachineIPAddress, holder *metav1.Holder) (fabric.Attachment, error) {
	at, err := netip.ParseAddr(ip.GetStatus().GetAddress())
	if err != nil {
		return fabric.Attachment{}, fault.New(fault.NotReady, "VirtualMachineIPAddressNotReady",
			"VirtualMachineIPAddress %s has no address yet", ip.GetMetadata().GetName())
	}
	uid := ip.GetMetadata().GetUid()
	wanted := fabric.Attachment{ID: uid, Address: at}
	if hostname.MatchString(holder.GetName()) {
		wanted.Hostname = holder.GetName()
	}
	return wanted, nil
}

// classify gives the network's errors their class.
func classify(err error) error {
	var (
		misfit   *address.MisfitError
		conflict *fabric.ConflictError
		foreign  *fabric.ForeignError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &misfit):
		return fault.Wrap(err, fault.NotReady, ReasonNetworkNotReady, "the guests' network has no such address: %s", misfit)
	case errors.As(err, &conflict):
		return fault.Wrap(err, fault.NotReady, ReasonAddressConflict, "%s", conflict)
	case errors.As(err, &foreign):
		return fault.Wrap(err, fault.NotReady, ReasonNetworkNotReady, "%s: remove or rename it", foreign)
	case errors.Is(err, fabric.ErrMissing):
		return fault.Wrap(err, fault.Transient, ReasonNetworkNotReady, "the guests' network is being made")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fault.Wrap(err, fault.Transient, ReasonNetworkNotReady, "the guests' network failed: the service's log has the cause")
}
