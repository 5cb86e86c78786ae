// Package lease has the rules of a VirtualMachineIPAddressLease and a
// VirtualMachineMACAddressLease: how an address is taken, by whom, how it is given
// back, and when it is free again.
//
// A lease's name is its address, and the store makes no name twice: that alone
// is why no address is given twice. The package must not know what an owner
// wants, nor what an address is used for.
package lease

import (
	"context"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const (
	// Retention is how long a released address is kept for its namespace (guide,
	// "IP addresses of virtual machines").
	Retention = 10 * time.Minute

	// releasedAnnotation has the Instant of the release. Wall clocks jump, and
	// nothing may be free too early.
	releasedAnnotation = "orlop.dev/released"

	// attempts bounds the races that one call may lose.
	attempts = 16
)

// Owner is a VirtualMachineIPAddress, or one of another kind, that has a lease or
// wants one.
type Owner struct {
	Namespace, Name, UID string
	// Seed leads to a MAC; the UID does where it is empty.
	Seed string
}

// Store keeps leases: a resource.Collection.
type Store[L resource.Object] interface {
	Get(key resource.Key) (L, error)
	Create(ctx context.Context, l L) (L, error)
	Mutate(ctx context.Context, key resource.Key, change func(L) error) (L, error)
	Delete(ctx context.Context, key resource.Key, pre resource.Preconditions) (L, error)
	Stager[L]
}

// Stager writes leases together with other objects.
type Stager[L resource.Object] interface {
	Newborn(l L) L
	StageCreate(batch *resource.Batch, newborn L) error
	StageChange(batch *resource.Batch, current, next L) error
}

// Book gives addresses and takes them back. It is safe for concurrent use, by
// several processes too.
type Book[A Address, L resource.Object] struct {
	store Store[L]
	space Space[A]
	form  Form[L]
	now   func() (Instant, error)
	index index
}

// NewBook returns the book of a space's leases. now is Uptime but in tests.
func NewBook[A Address, L resource.Object](store Store[L], space Space[A], form Form[L], now func() (Instant, error)) *Book[A, L] {
	return &Book[A, L]{store: store, space: space, form: form, now: now, index: index{names: map[resource.Key]string{}}}
}

// Pick takes a free address. Class Exhausted if there is none; a released address
// isn't free, not even for its own namespace, which has to ask for it by name.
func (b *Book[A, L]) Pick(ctx context.Context, owner Owner) (A, error) {
	var none A
	lost := map[A]bool{} // others took them just now, and the copy may not show it yet
	for range attempts {
		picked, err := b.free(owner, lost)
		if err != nil {
			return none, err
		}
		switch err := b.create(ctx, owner, picked); {
		case err == nil:
			return picked, nil
		case !fault.Is(err, fault.Exists):
			return none, err
		}
		lost[picked] = true
	}
	return none, b.raced()
}

// free returns an address that had no lease a moment ago.
func (b *Book[A, L]) free(owner Owner, lost map[A]bool) (A, error) {
	var failure error
	picked, found := b.space.Pick(owner, func(candidate A) bool {
		if lost[candidate] {
			return true
		}
		_, err := b.store.Get(b.keyOf(candidate))
		if err != nil && !fault.Is(err, fault.NotFound) {
			failure = err
		}
		return !fault.Is(err, fault.NotFound)
	})
	switch {
	case failure != nil:
		return picked, failure
	case !found:
		return picked, fault.New(fault.Exhausted, b.form.Reason(Exhausted),
			"%s; one that is given back is free again after %s.", b.space.Full(), Retention)
	}
	return picked, nil
}

// raced says that leases changed while they were looked at.
func (b *Book[A, L]) raced() error {
	return fault.New(fault.Stale, b.form.Reason(Changed), "leases are being changed by others: trying again")
}

// Take takes the address that is wanted. It is idempotent. Class Invalid if the
// pool has no such address, NotReady while somebody else has it or it is kept
// for another namespace.
func (b *Book[A, L]) Take(ctx context.Context, owner Owner, wanted A) error {
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
	return b.raced()
}

// Check refuses an address that no guest may have, in class Invalid.
func (b *Book[A, L]) Check(wanted A) error {
	if err := b.space.Check(wanted); err != nil {
		return fault.Wrap(err, fault.Invalid, b.form.Reason(OutOfRange), "%s.", err)
	}
	return nil
}

func (b *Book[A, L]) create(ctx context.Context, owner Owner, free A) error {
	_, err := b.store.Create(ctx, b.lease(owner, free))
	if err == nil {
		b.index.put(owner.key(), b.space.Name(free))
	}
	return err
}

// lease is a new one.
func (b *Book[A, L]) lease(owner Owner, at A) L {
	l := b.form.New(owner.ref())
	meta := l.GetMetadata()
	meta.Name, meta.Labels = b.space.Name(at), map[string]string{b.form.OwnerLabel: owner.UID}
	return l
}

// retake takes an address whose lease is there.
func (b *Book[A, L]) retake(ctx context.Context, owner Owner, wanted A) error {
	_, err := b.store.Mutate(ctx, b.keyOf(wanted), func(l L) error {
		if err := b.mayTake(l, owner, wanted); err != nil {
			return err
		}
		b.give(l, owner)
		return nil
	})
	if err == nil {
		b.index.put(owner.key(), b.space.Name(wanted))
	}
	return err
}

// give makes a lease the owner's.
func (b *Book[A, L]) give(l L, owner Owner) {
	b.form.SetRef(l, owner.ref())
	meta := l.GetMetadata()
	meta.Labels = with(meta.GetLabels(), b.form.OwnerLabel, owner.UID)
	delete(meta.GetAnnotations(), releasedAnnotation)
}

func (b *Book[A, L]) mayTake(l L, owner Owner, wanted A) error {
	ref := b.form.Ref(l)
	switch {
	case b.owns(owner, l):
		return nil
	case ref.Name != "":
		return fault.New(fault.NotReady, b.form.Reason(AlreadyExists), "Address %s belongs to %s %s/%s.",
			wanted, b.form.Owner, ref.Namespace, ref.Name)
	case resource.Terminating(l):
		return fault.New(fault.NotReady, b.form.Reason(NotReady), "Address %s is just being given back.", wanted)
	case ref.Namespace != owner.Namespace:
		return fault.New(fault.NotReady, b.form.Reason(NotReady),
			"Address %s was given back a short time ago and is kept for another namespace for %s.", wanted, Retention)
	}
	return nil
}

// Holds reports whether the owner has the lease of an address.
func (b *Book[A, L]) Holds(owner Owner, at A) (bool, error) {
	l, err := b.store.Get(b.keyOf(at))
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && b.owns(owner, l), err
}

// Find returns the address that the owner has a lease of, if any: one that was
// taken by a process which died before anybody was told.
func (b *Book[A, L]) Find(owner Owner) (A, bool, error) {
	var none A
	name, known := b.index.get(owner.key())
	if !known {
		return none, false, nil
	}
	at, err := b.space.ParseName(name)
	if err != nil {
		return none, false, nil //nolint:nilerr // Admit lets no such name in
	}
	held, err := b.Holds(owner, at)
	return at, held, err
}

// Release gives an address back. Whoever else has it by now keeps it.
// Idempotent.
func (b *Book[A, L]) Release(ctx context.Context, owner Owner, at A) error {
	b.index.remove(owner.key(), b.space.Name(at))
	return b.release(ctx, b.keyOf(at), func(l L) bool { return b.owns(owner, l) })
}

// release gives a lease back if it is still the one that is meant.
func (b *Book[A, L]) release(ctx context.Context, key resource.Key, meant func(L) bool) error {
	now, err := b.now()
	if err != nil {
		return err
	}
	_, err = b.store.Mutate(ctx, key, func(l L) error {
		if !meant(l) {
			return nil
		}
		b.form.SetRef(l, Ref{Namespace: b.form.Ref(l).Namespace})
		meta := l.GetMetadata()
		meta.Labels = with(meta.GetLabels(), b.form.OwnerLabel, "")
		meta.Annotations = with(meta.GetAnnotations(), releasedAnnotation, now.String())
		return nil
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// owns reports whether a lease is the owner's. One without a UID was restored by
// hand, for whoever has the name.
func (b *Book[A, L]) owns(owner Owner, l L) bool {
	uid := l.GetMetadata().GetLabels()[b.form.OwnerLabel]
	return b.form.Ref(l) == owner.ref() && (uid == "" || uid == owner.UID)
}

func (b *Book[A, L]) keyOf(at A) resource.Key { return resource.Key{Name: b.space.Name(at)} }

func (o Owner) key() resource.Key { return resource.Key{Namespace: o.Namespace, Name: o.Name} }

func (o Owner) ref() Ref { return Ref{Namespace: o.Namespace, Name: o.Name} }

func (o Owner) seed() string {
	if o.Seed == "" {
		return o.UID
	}
	return o.Seed
}

func missing(l resource.Object) bool { return !l.ProtoReflect().IsValid() }

func with(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}
