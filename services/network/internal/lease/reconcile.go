package lease

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

const (
	typeBound = "Bound"
	// decisionPoll is when to ask again whose lease it is, where the owner has not
	// said so yet: usually it has by then.
	decisionPoll = time.Minute
)

// Claimant is an owner as its lease sees it.
type Claimant struct {
	UID string
	// Address that it says it has; empty if it has not decided yet.
	Address string
}

// Reconciler looks after leases: one whose owner is gone is released, one that
// was released long enough ago is deleted.
type Reconciler[A Address, L resource.Object] struct {
	Book *Book[A, L]
	// Claimant finds the owner of that name; false if there is none. One that is
	// fresh is read from the store itself: a copy may lag behind a lease that was
	// written with its owner.
	Claimant func(ctx context.Context, key resource.Key, fresh bool) (Claimant, bool, error)
	Now      func() time.Time
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[A, L]) Reconcile(ctx context.Context, l L) (reconcile.Result, error) {
	owned, decided, err := r.owned(ctx, l, false)
	if err == nil && !owned {
		owned, decided, err = r.owned(ctx, l, true)
	}
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case owned && !decided:
		return reconcile.Result{Status: r.status(l, true), After: decisionPoll}, nil
	case owned:
		return reconcile.Result{Status: r.status(l, true)}, nil
	case resource.Terminating(l):
		return reconcile.Result{Status: r.status(l, false), Finalized: true}, nil
	}
	wait, err := r.expire(ctx, l)
	return reconcile.Result{Status: r.status(l, false), After: wait}, err
}

// owned reports whether the one that the lease names is there and means it, and
// whether it has decided that this is its lease.
func (r *Reconciler[A, L]) owned(ctx context.Context, l L, fresh bool) (owned, decided bool, err error) {
	key, named := r.Book.OwnerKey(l)
	if !named {
		return false, false, nil
	}
	claimant, found, err := r.Claimant(ctx, key, fresh)
	if err != nil || !found {
		return false, false, err
	}
	at, err := r.Book.space.ParseName(l.GetMetadata().GetName())
	if err != nil {
		return false, false, nil //nolint:nilerr // Admit lets no such name in
	}
	owner := Owner{Namespace: key.Namespace, Name: key.Name, UID: claimant.UID}
	decided = claimant.Address != ""
	return r.Book.owns(owner, l) && (!decided || claimant.Address == at.String()), decided, nil
}

// expire brings a lease that nobody has nearer to its end, and says when to look
// again.
func (r *Reconciler[A, L]) expire(ctx context.Context, l L) (time.Duration, error) {
	now, err := r.Book.now()
	if err != nil {
		return 0, err
	}
	version := l.GetMetadata().GetResourceVersion()
	_, named := r.Book.OwnerKey(l)
	released, stamped := parseInstant(l.GetMetadata().GetAnnotations()[releasedAnnotation])
	passed, known := now.elapsed(released)
	switch {
	case named, !stamped, !known:
		// Its owner went without a word, or the machine was booted since: the time
		// begins now, as it may only be longer.
		return Retention, r.Book.release(ctx, resource.KeyOf(l), func(present L) bool {
			return present.GetMetadata().GetResourceVersion() == version
		})
	case passed < Retention:
		return Retention - passed, nil
	}
	_, err = r.Book.store.Delete(ctx, resource.KeyOf(l), resource.Preconditions{ResourceVersion: version})
	if fault.Is(err, fault.NotFound, fault.Stale) {
		return 0, nil // it is gone, or taken again: both wake the loop
	}
	return 0, err
}

// status says what was observed.
func (r *Reconciler[A, L]) status(l L, owned bool) proto.Message {
	generation := l.GetMetadata().GetGeneration()
	list := condition.List{Old: r.Book.form.Status(l).Conditions, Generation: generation, Now: r.Now()}
	status := Status{ObservedGeneration: generation}
	if owned {
		status.Phase = networkv1.LeasePhase_Bound
		list.True(typeBound, "Bound", "")
	} else {
		status.Phase = networkv1.LeasePhase_Released
		list.False(typeBound, "Released", "The address is kept for its namespace for "+Retention.String()+" after it was given back.")
	}
	status.Conditions = list.Conditions()
	return r.Book.form.NewStatus(status)
}
