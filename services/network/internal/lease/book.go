// Package lease has the rules of a VirtualMachineIPAddressLease: how an address
// of the pool is taken, by whom, how it is given back, and when it is free again.
//
// A lease's name is its address, and the store makes no name twice: that alone
// is why no address is given twice. The package must not know what a
// VirtualMachineIPAddress wants, nor what an address is used for.
package lease

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
)

// Reasons of faults; they become reasons of a VirtualMachineIPAddress' condition
// Bound (api.md of the platform, A.2; the pool's end has no word there).
const (
	ReasonOutOfRange    = "VirtualMachineIPAddressIsOutOfTheValidRange"
	ReasonAlreadyExists = "VirtualMachineIPAddressLeaseAlreadyExists"
	ReasonNotReady      = "VirtualMachineIPAddressLeaseNotReady"
	ReasonExhausted     = "VirtualMachineIPAddressPoolExhausted"
)

const (
	// Retention is how long a released address is kept for its namespace (guide,
	// "IP addresses of virtual machines").
	Retention = 10 * time.Minute

	// ownerLabel has the UID of the VirtualMachineIPAddress; empty once released.
	ownerLabel = "virtualization.deckhouse.io/virtual-machine-ip-address-uid"
	// releasedAnnotation has the Instant of the release. Wall clocks jump, and
	// nothing may be free too early.
	releasedAnnotation = "orlop.dev/released"

	// attempts bounds the races that one call may lose.
	attempts = 16
)

// errRaced says that a lease changed while it was looked at.
var errRaced = fault.New(fault.Stale, "VirtualMachineIPAddressLeaseChanged", "leases are being changed by others: trying again")

// Owner is a VirtualMachineIPAddress that has a lease or wants one.
type Owner struct{ Namespace, Name, UID string }

// Store keeps leases: a resource.Collection.
type Store interface {
	Get(key resource.Key) (*networkv1.VirtualMachineIPAddressLease, error)
	Create(ctx context.Context, l *networkv1.VirtualMachineIPAddressLease) (*networkv1.VirtualMachineIPAddressLease, error)
	Mutate(ctx context.Context, key resource.Key, change func(*networkv1.VirtualMachineIPAddressLease) error) (*networkv1.VirtualMachineIPAddressLease, error)
	Delete(ctx context.Context, key resource.Key, pre resource.Preconditions) (*networkv1.VirtualMachineIPAddressLease, error)
}

// Book gives addresses and takes them back. It is safe for concurrent use, by
// several processes too.
type Book struct {
	store Store
	pool  *address.Pool
	now   func() (Instant, error)
	index index
}

// NewBook returns the book of a pool's leases. now is Uptime but in tests.
func NewBook(store Store, pool *address.Pool, now func() (Instant, error)) *Book {
	return &Book{store: store, pool: pool, now: now, index: index{names: map[resource.Key]string{}}}
}

// Pick takes a free address, at random. Class Exhausted if there is none; a
// released address isn't free, not even for its own namespace, which has to ask
// for it by name.
func (b *Book) Pick(ctx context.Context, owner Owner) (netip.Addr, error) {
	for range attempts {
		picked, err := b.free()
		if err != nil {
			return netip.Addr{}, err
		}
		switch err := b.create(ctx, owner, picked); {
		case err == nil:
			return picked, nil
		case !fault.Is(err, fault.Exists):
			return netip.Addr{}, err
		}
	}
	return netip.Addr{}, errRaced
}

// free returns an address that had no lease a moment ago.
func (b *Book) free() (netip.Addr, error) {
	var failure error
	picked, err := b.pool.Pick(func(candidate netip.Addr) bool {
		_, err := b.store.Get(keyOf(candidate))
		if err != nil && !fault.Is(err, fault.NotFound) {
			failure = err
		}
		return !fault.Is(err, fault.NotFound)
	})
	switch {
	case failure != nil:
		return netip.Addr{}, failure
	case errors.Is(err, address.ErrExhausted):
		return netip.Addr{}, fault.Wrap(err, fault.Exhausted, ReasonExhausted,
			"All %d addresses of %s are taken; one that is given back is free again after %s.", b.pool.Size(), b.cidrs(), Retention)
	case err != nil:
		return netip.Addr{}, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "no address could be picked")
	}
	return picked, nil
}

func (b *Book) cidrs() string {
	var all []string
	for _, subnet := range b.pool.Subnets() {
		all = append(all, subnet.Prefix.String())
	}
	return strings.Join(all, ", ")
}

// Take takes the address that is wanted. It is idempotent. Class Invalid if the
// pool has no such address, NotReady while somebody else has it or it is kept
// for another namespace.
func (b *Book) Take(ctx context.Context, owner Owner, wanted netip.Addr) error {
	if err := b.Check(wanted); err != nil {
		return err
	}
	for range attempts {
		err := b.create(ctx, owner, wanted)
		if !fault.Is(err, fault.Exists) {
			return err
		}
		if err = b.retake(ctx, owner, wanted); !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return errRaced
}

// Check refuses an address that no guest may have, in class Invalid.
func (b *Book) Check(wanted netip.Addr) error {
	if err := b.pool.Check(wanted); err != nil {
		return fault.Wrap(err, fault.Invalid, ReasonOutOfRange, "%s; the pool is %s.", err, b.cidrs())
	}
	return nil
}

func (b *Book) create(ctx context.Context, owner Owner, free netip.Addr) error {
	name := address.LeaseName(free)
	_, err := b.store.Create(ctx, &networkv1.VirtualMachineIPAddressLease{
		Metadata: &metav1.ObjectMeta{Name: name, Labels: map[string]string{ownerLabel: owner.UID}},
		Spec:     &networkv1.VirtualMachineIPAddressLeaseSpec{VirtualMachineIpAddressRef: owner.ref()},
	})
	if err == nil {
		b.index.put(owner.key(), name)
	}
	return err
}

// retake takes an address whose lease is there.
func (b *Book) retake(ctx context.Context, owner Owner, wanted netip.Addr) error {
	_, err := b.store.Mutate(ctx, keyOf(wanted), func(l *networkv1.VirtualMachineIPAddressLease) error {
		if err := b.mayTake(l, owner, wanted); err != nil {
			return err
		}
		l.Spec.VirtualMachineIpAddressRef = owner.ref()
		l.Metadata.Labels = with(l.GetMetadata().GetLabels(), ownerLabel, owner.UID)
		delete(l.GetMetadata().GetAnnotations(), releasedAnnotation)
		return nil
	})
	if err == nil {
		b.index.put(owner.key(), address.LeaseName(wanted))
	}
	return err
}

func (b *Book) mayTake(l *networkv1.VirtualMachineIPAddressLease, owner Owner, wanted netip.Addr) error {
	ref := l.GetSpec().GetVirtualMachineIpAddressRef()
	switch {
	case owner.owns(l):
		return nil
	case ref.GetName() != "":
		return fault.New(fault.NotReady, ReasonAlreadyExists, "Address %s belongs to VirtualMachineIPAddress %s/%s.",
			wanted, ref.GetNamespace(), ref.GetName())
	case resource.Terminating(l):
		return fault.New(fault.NotReady, ReasonNotReady, "Address %s is just being given back.", wanted)
	case ref.GetNamespace() != owner.Namespace:
		return fault.New(fault.NotReady, ReasonNotReady,
			"Address %s was given back a short time ago and is kept for another namespace for %s.", wanted, Retention)
	}
	return nil
}

// Holds reports whether the owner has the lease of an address.
func (b *Book) Holds(owner Owner, at netip.Addr) (bool, error) {
	l, err := b.store.Get(keyOf(at))
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && owner.owns(l), err
}

// Find returns the address that the owner has a lease of, if any: one that was
// taken by a process which died before anybody was told.
func (b *Book) Find(owner Owner) (netip.Addr, bool, error) {
	name, known := b.index.get(owner.key())
	if !known {
		return netip.Addr{}, false, nil
	}
	at, err := address.ParseLeaseName(name)
	if err != nil {
		return netip.Addr{}, false, nil //nolint:nilerr // Admit lets no such name in
	}
	held, err := b.Holds(owner, at)
	return at, held, err
}

// Release gives an address back. Whoever else has it by now keeps it.
// Idempotent.
func (b *Book) Release(ctx context.Context, owner Owner, at netip.Addr) error {
	b.index.remove(owner.key(), address.LeaseName(at))
	return b.release(ctx, keyOf(at), owner.owns)
}

// release gives a lease back if it is still the one that is meant.
func (b *Book) release(ctx context.Context, key resource.Key, meant func(*networkv1.VirtualMachineIPAddressLease) bool) error {
	now, err := b.now()
	if err != nil {
		return err
	}
	_, err = b.store.Mutate(ctx, key, func(l *networkv1.VirtualMachineIPAddressLease) error {
		if !meant(l) {
			return nil
		}
		l.Spec.VirtualMachineIpAddressRef.Name = proto.String("")
		l.Metadata.Labels = with(l.GetMetadata().GetLabels(), ownerLabel, "")
		l.Metadata.Annotations = with(l.GetMetadata().GetAnnotations(), releasedAnnotation, now.String())
		return nil
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func (o Owner) key() resource.Key { return resource.Key{Namespace: o.Namespace, Name: o.Name} }

func (o Owner) ref() *networkv1.VirtualMachineIPAddressRef {
	return &networkv1.VirtualMachineIPAddressRef{Name: proto.String(o.Name), Namespace: o.Namespace}
}

// owns reports whether a lease is the owner's. One without a UID was restored by
// hand, for whoever has the name.
func (o Owner) owns(l *networkv1.VirtualMachineIPAddressLease) bool {
	ref, uid := l.GetSpec().GetVirtualMachineIpAddressRef(), l.GetMetadata().GetLabels()[ownerLabel]
	return ref.GetName() == o.Name && ref.GetNamespace() == o.Namespace && (uid == "" || uid == o.UID)
}

func keyOf(at netip.Addr) resource.Key { return resource.Key{Name: address.LeaseName(at)} }

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}
