package lease

import (
	"context"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
)

// Admit judges what callers do with leases. The service makes them itself and
// past this; what may come this way is one that is put back after the store was
// lost.
func (b *Book[A, L]) Admit(_ context.Context, old, l L) error {
	switch {
	case missing(l):
		return nil
	case missing(old):
		return b.admitNew(l)
	case !proto.Equal(b.form.Spec(old), b.form.Spec(l)):
		return fault.Refuse("spec", "FieldValueForbidden", "is the network service's to write: change the %s", b.form.Owner)
	}
	return nil
}

func (b *Book[A, L]) admitNew(l L) error {
	at, err := b.space.ParseName(l.GetMetadata().GetName())
	if err != nil {
		return fault.Refuse("metadata.name", "FieldValueInvalid", "must be the address with dashes, as in %s", b.form.Example)
	}
	if misfit := b.space.Check(at); misfit != nil {
		return fault.Refuse("metadata.name", "FieldValueInvalid", "%s", misfit)
	}
	if ref := b.form.Ref(l); ref.Name == "" || ref.Namespace == "" {
		return fault.Refuse(b.form.RefField, "FieldValueRequired", "must name a %s", b.form.Owner)
	}
	return nil
}

// AdmitAddress refuses, for people who ask, an address that Take would refuse
// them too. One that is kept for another namespace for a while is let pass: the
// wait is shown.
func (b *Book[A, L]) AdmitAddress(owner Owner, wanted A) error {
	l, err := b.store.Get(b.keyOf(wanted))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	ref := b.form.Ref(l)
	if ref.Name == "" || ref == owner.ref() {
		return nil
	}
	return fault.Refuse(b.form.AddressField, "FieldValueDuplicate", "address %s belongs to %s %s/%s",
		wanted, b.form.Owner, ref.Namespace, ref.Name)
}
