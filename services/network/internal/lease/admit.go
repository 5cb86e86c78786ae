package lease

import (
	"context"
	"net/netip"

	"google.golang.org/protobuf/proto"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/network/internal/address"
)

// Admit judges what callers do with leases. The service makes them itself and
// past this; what may come this way is one that is put back after the store was
// lost.
func (b *Book) Admit(_ context.Context, old, l *networkv1.VirtualMachineIPAddressLease) error {
	switch {
	case l == nil:
		return nil
	case old == nil:
		return b.admitNew(l)
	case !proto.Equal(old.GetSpec(), l.GetSpec()):
		return fault.Refuse("spec", "FieldValueForbidden", "is the network service's to write: change the VirtualMachineIPAddress")
	}
	return nil
}

func (b *Book) admitNew(l *networkv1.VirtualMachineIPAddressLease) error {
	at, err := address.ParseLeaseName(l.GetMetadata().GetName())
	if err != nil {
		return fault.Refuse("metadata.name", "FieldValueInvalid", "must be the address with dashes, as in ip-10-66-10-14")
	}
	if misfit := b.pool.Check(at); misfit != nil {
		return fault.Refuse("metadata.name", "FieldValueInvalid", "%s", misfit)
	}
	if ref := l.GetSpec().GetVirtualMachineIpAddressRef(); ref.GetName() == "" || ref.GetNamespace() == "" {
		return fault.Refuse("spec.virtualMachineIPAddressRef", "FieldValueRequired", "must name a VirtualMachineIPAddress")
	}
	return nil
}

// AdmitAddress refuses, for people who ask, an address that Take would refuse
// them too. One that is kept for another namespace for a while is let pass: the
// wait is shown.
func (b *Book) AdmitAddress(owner Owner, wanted netip.Addr) error {
	l, err := b.store.Get(keyOf(wanted))
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	ref := l.GetSpec().GetVirtualMachineIpAddressRef()
	if err != nil || ref.GetName() == "" || ref.GetName() == owner.Name && ref.GetNamespace() == owner.Namespace {
		return err
	}
	return fault.Refuse("spec.staticIP", "FieldValueDuplicate", "address %s belongs to VirtualMachineIPAddress %s/%s",
		wanted, ref.GetNamespace(), ref.GetName())
}
