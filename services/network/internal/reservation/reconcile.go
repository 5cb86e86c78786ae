// Package reservation has the rules of a VirtualMachineIPAddress and of a
// VirtualMachineMACAddress: which address it gets, who may use it, what its
// status says.
//
// It must not know how leases are kept (package lease does), nor how a guest is
// plugged in.
package reservation

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

// machineKind is the kind of holders that are guests.
const machineKind = "VirtualMachine"

// Leases gives addresses: a lease.Book.
type Leases[A lease.Address] interface {
	Pick(ctx context.Context, owner lease.Owner) (A, error)
	Take(ctx context.Context, owner lease.Owner, wanted A) error
	Holds(owner lease.Owner, at A) (bool, error)
	Find(owner lease.Owner) (A, bool, error)
	Release(ctx context.Context, owner lease.Owner, at A) error
}

// Draft gives addresses that are written with others: a lease.Draft.
type Draft[A lease.Address] interface {
	Pick(owner lease.Owner) (A, error)
	Take(owner lease.Owner, wanted A) error
}

// Unplugger takes a guest off the network.
type Unplugger interface {
	// Unplug is idempotent.
	Unplug(ctx context.Context, uid string) error
}

// Reconciler gives addresses to those who ask.
type Reconciler[A lease.Address, T resource.Object] struct {
	Kind   Kind[A, T]
	Leases Leases[A]
	// Check refuses an address that no guest may have.
	Check func(A) error
	// Ports is nil where no port is named by the object's UID.
	Ports Unplugger
	// Seed leads to the address that an object gets; nil where that is chance.
	Seed func(T) (string, error)
	Now  func() time.Time

	waiting waiting
}

// Waiting lists those that have no address yet because there was none to be had:
// a lease that ends may help them.
func (r *Reconciler[A, T]) Waiting() []resource.Key { return r.waiting.all() }

// observation is what one look found, and all that the status is made from.
type observation[A lease.Address] struct {
	address A
	// known is false while there is no address.
	known bool
	// bound reports whether there is a lease of the address.
	bound bool
	// fault is why there is none.
	fault *fault.Fault
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[A, T]) Reconcile(ctx context.Context, object T) (reconcile.Result, error) {
	if resource.Terminating(object) {
		return r.remove(ctx, object)
	}
	return r.look(ctx, object)
}

// look sees to the lease and says what is there.
func (r *Reconciler[A, T]) look(ctx context.Context, object T) (reconcile.Result, error) {
	o, err := r.bind(ctx, object)
	r.waiting.note(resource.KeyOf(object), fault.Is(err, fault.NotReady, fault.Exhausted))
	if fault.Is(err, fault.Transient, fault.Stale, fault.Internal) {
		return reconcile.Result{}, err // nothing was observed: what was said stays true
	}
	return reconcile.Result{Status: r.status(object, o)}, err
}

// bind sees to it that there is a lease. An address that was told once is never
// changed: its guest may be running.
func (r *Reconciler[A, T]) bind(ctx context.Context, object T) (o observation[A], err error) {
	if told, known := r.Kind.told(object); known {
		o, err = r.keep(ctx, object, told)
	} else {
		o.address, err = r.acquire(ctx, object)
		o.known, o.bound = err == nil, err == nil
	}
	o.fault = fault.From(err)
	return o, err
}

// keep sees to it that an address that was told still has its lease. A lease
// that is gone is taken again, unless somebody else was faster.
func (r *Reconciler[A, T]) keep(ctx context.Context, object T, told A) (observation[A], error) {
	held, err := r.Leases.Holds(Owner(object), told)
	if misfit := r.Check(told); err == nil && misfit != nil {
		return observation[A]{address: told, known: true}, fault.New(fault.NotReady, r.Kind.reason(lease.OutOfRange),
			"%s: put its CIDR back into virtualMachineCIDRs, or delete this address, so that its VM gets another one.",
			strings.TrimSuffix(fault.From(misfit).Message, "."))
	}
	if err == nil && !held {
		err = r.Leases.Take(ctx, Owner(object), told)
	}
	if fault.Is(err, fault.NotReady, fault.Invalid) {
		err = fault.Wrap(err, fault.NotReady, r.Kind.reason(lease.Lost),
			"The lease of address %s is lost: %s", told, fault.From(err).Message)
	}
	return observation[A]{address: told, known: true, bound: err == nil}, err
}

// Allot gives a new object the address that it asks for, and returns it with the
// status that it has then.
func (r *Reconciler[A, T]) Allot(object T, draft Draft[A]) (T, error) {
	owner, err := r.owner(object)
	if err != nil {
		return object, err
	}
	wanted, named, err := r.Kind.wish(object)
	switch {
	case err != nil:
	case named:
		err = draft.Take(owner, wanted)
	default:
		wanted, err = draft.Pick(owner)
	}
	if err != nil {
		return object, err
	}
	object = resource.Clone(object)
	message := object.ProtoReflect()
	status := r.status(object, observation[A]{address: wanted, known: true, bound: true})
	message.Set(message.Descriptor().Fields().ByName("status"), protoreflect.ValueOfMessage(status.ProtoReflect()))
	return object, nil
}

// owner is Owner with the seed of its address.
func (r *Reconciler[A, T]) owner(object T) (lease.Owner, error) {
	owner := Owner(object)
	if r.Seed == nil {
		return owner, nil
	}
	var err error
	owner.Seed, err = r.Seed(object)
	return owner, err
}

func (r *Reconciler[A, T]) acquire(ctx context.Context, object T) (A, error) {
	var none A
	owner, err := r.owner(object)
	if err != nil {
		return none, err
	}
	wanted, named, err := r.Kind.wish(object)
	if err != nil {
		return none, err
	}
	found, taken, err := r.Leases.Find(owner)
	switch {
	case err != nil:
		return none, err
	case taken && (!named || wanted == found):
		return found, nil
	case taken:
		// The wish changed before the lease was told of.
		if err := r.Leases.Release(ctx, owner, found); err != nil {
			return none, err
		}
	}
	if named {
		return wanted, r.Leases.Take(ctx, owner, wanted)
	}
	return r.Leases.Pick(ctx, owner)
}

// remove gives the address back. The loop keeps the object while a VM runs with
// it, and so does this keep the address.
func (r *Reconciler[A, T]) remove(ctx context.Context, object T) (reconcile.Result, error) {
	if resource.Held(object) {
		return r.look(ctx, object)
	}
	r.waiting.note(resource.KeyOf(object), false)
	// First off the network: the next guest with this address must find it free.
	owner := Owner(object)
	if r.Ports != nil {
		if err := r.Ports.Unplug(ctx, owner.UID); err != nil {
			return reconcile.Result{}, err
		}
	}
	if told, known := r.Kind.told(object); known {
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

// Owner is an object as its lease names it.
func Owner(object resource.Object) lease.Owner {
	meta := object.GetMetadata()
	return lease.Owner{Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUid()}
}

// Machine returns the VM that has the address, one that runs with it before one
// that only refers to it; nil if there is none.
func Machine(object resource.Object) *metav1.Holder {
	var machine *metav1.Holder
	for _, holder := range object.GetMetadata().GetHolders() {
		if holder.GetKind() == machineKind && (machine == nil || holder.GetActive()) {
			machine = holder
		}
	}
	return machine
}
