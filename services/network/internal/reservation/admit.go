package reservation

import (
	"context"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

// Judge knows which addresses can be had: a lease.Book.
type Judge[A lease.Address] interface {
	// Check refuses an address that no guest may have.
	Check(wanted A) error
	// AdmitAddress refuses an address that somebody else has.
	AdmitAddress(owner lease.Owner, wanted A) error
}

// Admission refuses what the schema can't know to be wrong.
type Admission[A lease.Address, T resource.Object] struct {
	Kind   Kind[A, T]
	Leases Judge[A]
}

// Admit implements resource.MethodOptions.Admit.
func (a Admission[A, T]) Admit(_ context.Context, old, object T) error {
	created := missing(old)
	switch {
	case missing(object), !created && proto.Equal(a.Kind.Spec(old), a.Kind.Spec(object)):
		return nil
	case !created && resource.Terminating(old):
		return fault.Refuse("spec", "FieldValueForbidden", "the address is being deleted and can't be changed")
	case !created && a.Kind.Status(old).Address != "":
		return a.admitChange(old, object)
	}
	wanted, named, err := a.Kind.wish(object)
	switch {
	case err != nil:
		return fault.Refuse(a.Kind.Field, "FieldValueInvalid", "%s", fault.From(err).Message)
	case !named:
		return nil
	}
	// A change to an address out of range passes, and its status says so (api.md
	// of the platform, A.3: a warning).
	if misfit := a.Leases.Check(wanted); misfit != nil && created {
		return fault.Refuse(a.Kind.Field, "FieldValueInvalid", "%s", fault.From(misfit).Message)
	}
	return a.Leases.AdmitAddress(Owner(object), wanted)
}

// admitChange judges a change of one that has its address already: it may only
// say that it wants what it has.
func (a Admission[A, T]) admitChange(old, object T) error {
	if a.Kind.Keeps != nil {
		if err := a.Kind.Keeps(old, object); err != nil {
			return err
		}
	}
	has, _ := a.Kind.told(old)
	if wanted, named, err := a.Kind.wish(object); err != nil || !named || wanted != has {
		return fault.Refuse(a.Kind.Field, "FieldValueForbidden",
			"can't be changed once the address is bound: only %s, which it has, can be named", has)
	}
	return nil
}

func missing(object resource.Object) bool { return !object.ProtoReflect().IsValid() }
