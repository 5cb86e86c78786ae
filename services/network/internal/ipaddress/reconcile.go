// Package ipaddress has the rules of a VirtualMachineIPAddress: which address it
// gets, who may use it, what its status says.
//
// It must not know how leases are kept (package lease does), nor how a guest is
// plugged in.
package ipaddress

import (
	"context"
	"net/netip"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

const (
	// machineKind is the kind of holders that are guests.
	machineKind = "VirtualMachine"

	reasonLeaseLost = "VirtualMachineIPAddressLeaseLost"
	reasonInvalid   = "VirtualMachineIPAddressInvalid"
)

// Leases gives addresses: a lease.Book.
type Leases interface {
	Pick(ctx context.Context, owner lease.Owner) (netip.Addr, error)
	Take(ctx context.Context, owner lease.Owner, wanted netip.Addr) error
	Holds(owner lease.Owner, at netip.Addr) (bool, error)
	Find(owner lease.Owner) (netip.Addr, bool, error)
	Release(ctx context.Context, owner lease.Owner, at netip.Addr) error
}

// Unplugger takes a guest off the network.
type Unplugger interface {
	// Unplug is idempotent.
	Unplug(ctx context.Context, uid string) error
}

// Reconciler gives addresses to those who ask.
type Reconciler struct {
	Leases Leases
	// Check refuses an address that no guest may have.
	Check func(netip.Addr) error
	Ports Unplugger
	Now   func() time.Time

	waiting waiting
}

// Waiting lists those that have no address yet because there was none to be had:
// a lease that ends may help them.
func (r *Reconciler) Waiting() []resource.Key { return r.waiting.all() }

// observation is what one look found, and all that the status is made from.
type observation struct {
	address netip.Addr
	// bound reports whether there is a lease of the address.
	bound bool
	// fault is why there is none.
	fault *fault.Fault
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, ip *networkv1.VirtualMachineIPAddress) (reconcile.Result, error) {
	if resource.Terminating(ip) {
		return r.remove(ctx, ip)
	}
	return r.look(ctx, ip)
}

// look sees to the lease and says what is there.
func (r *Reconciler) look(ctx context.Context, ip *networkv1.VirtualMachineIPAddress) (reconcile.Result, error) {
	o, err := r.bind(ctx, ip)
	r.waiting.note(resource.KeyOf(ip), fault.Is(err, fault.NotReady, fault.Exhausted))
	if fault.Is(err, fault.Transient, fault.Stale, fault.Internal) {
		return reconcile.Result{}, err // nothing was observed: what was said stays true
	}
	return reconcile.Result{Status: r.status(ip, o)}, err
}

// bind sees to it that there is a lease. An address that was told once is never
// changed: its guest may be running.
func (r *Reconciler) bind(ctx context.Context, ip *networkv1.VirtualMachineIPAddress) (o observation, err error) {
	if told, parseErr := netip.ParseAddr(ip.GetStatus().GetAddress()); parseErr == nil {
		o, err = r.keep(ctx, ip, told)
	} else {
		o.address, err = r.acquire(ctx, ip)
		o.bound = err == nil
	}
	o.fault = fault.From(err)
	return o, err
}

// keep sees to it that an address that was told still has its lease. A lease
// that is gone is taken again, unless somebody else was faster.
func (r *Reconciler) keep(ctx context.Context, ip *networkv1.VirtualMachineIPAddress, told netip.Addr) (observation, error) {
	held, err := r.Leases.Holds(Owner(ip), told)
	if err == nil && r.Check(told) != nil {
		return observation{address: told}, fault.New(fault.NotReady, lease.ReasonOutOfRange,
			"%s: put its CIDR back into virtualMachineCIDRs, or delete this address, so that its VM gets another one.",
			fault.From(r.Check(told)).Message)
	}
	if err == nil && !held {
		err = r.Leases.Take(ctx, Owner(ip), told)
	}
	if fault.Is(err, fault.NotReady, fault.Invalid) {
		err = fault.Wrap(err, fault.NotReady, reasonLeaseLost,
			"The lease of address %s is lost: %s", told, fault.From(err).Message)
	}
	return observation{address: told, bound: err == nil}, err
}

func (r *Reconciler) acquire(ctx context.Context, ip *networkv1.VirtualMachineIPAddress) (netip.Addr, error) {
	owner := Owner(ip)
	wanted, err := wantedAddress(ip.GetSpec())
	if err != nil {
		return netip.Addr{}, err
	}
	found, taken, err := r.Leases.Find(owner)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case taken && (!wanted.IsValid() || wanted == found):
		return found, nil
	case taken:
		// The wish changed before the lease was told of.
		if err := r.Leases.Release(ctx, owner, found); err != nil {
			return netip.Addr{}, err
		}
	}
	if !wanted.IsValid() {
		return r.Leases.Pick(ctx, owner)
	}
	if err := r.Leases.Take(ctx, owner, wanted); err != nil {
		return netip.Addr{}, err
	}
	return wanted, nil
}

// wantedAddress is the address that the spec names; none where any will do.
func wantedAddress(spec *networkv1.VirtualMachineIPAddressSpec) (netip.Addr, error) {
	if spec.GetType() != networkv1.IPAddressType_Static {
		return netip.Addr{}, nil
	}
	wanted, err := netip.ParseAddr(spec.GetStaticIp())
	if err != nil {
		return netip.Addr{}, fault.New(fault.Invalid, reasonInvalid, "%q is not an IP address.", spec.GetStaticIp())
	}
	return wanted, nil
}

// remove gives the address back. The loop keeps the object while a VM runs with
// it, and so does this keep the address.
func (r *Reconciler) remove(ctx context.Context, ip *networkv1.VirtualMachineIPAddress) (reconcile.Result, error) {
	if resource.Held(ip) {
		return r.look(ctx, ip)
	}
	r.waiting.note(resource.KeyOf(ip), false)
	// First off the network: the next guest with this address must find it free.
	owner := Owner(ip)
	if err := r.Ports.Unplug(ctx, owner.UID); err != nil {
		return reconcile.Result{}, err
	}
	if told, err := netip.ParseAddr(ip.GetStatus().GetAddress()); err == nil {
		if err := r.Leases.Release(ctx, owner, told); err != nil {
			return reconcile.Result{}, err
		}
	}
	found, taken, err := r.Leases.Find(owner)
	if err == nil && taken {
		err = r.Leases.Release(ctx, owner, found)
	}
	return reconcile.Result{Finalized: err == nil}, err
}

// Owner is a VirtualMachineIPAddress as its lease names it.
func Owner(ip *networkv1.VirtualMachineIPAddress) lease.Owner {
	meta := ip.GetMetadata()
	return lease.Owner{Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid()}
}

// Machine returns the VM that has the address, one that runs with it before one
// that only refers to it; nil if there is none.
func Machine(ip *networkv1.VirtualMachineIPAddress) *metav1.Holder {
	var machine *metav1.Holder
	for _, holder := range ip.GetMetadata().GetHolders() {
		if holder.GetKind() == machineKind && (machine == nil || holder.GetActive()) {
			machine = holder
		}
	}
	return machine
}
