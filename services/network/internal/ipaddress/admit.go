package ipaddress

import (
	"context"
	"net/netip"

	"google.golang.org/protobuf/proto"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

// Judge knows which addresses can be had: a lease.Book.
type Judge interface {
	// Check refuses an address that no guest may have.
	Check(wanted netip.Addr) error
	// AdmitAddress refuses an address that somebody else has.
	AdmitAddress(owner lease.Owner, wanted netip.Addr) error
}

// Admission refuses what the schema can't know to be wrong.
type Admission struct{ Leases Judge }

// Admit implements resource.MethodOptions.Admit.
func (a Admission) Admit(_ context.Context, old, ip *networkv1.VirtualMachineIPAddress) error {
	switch {
	case ip == nil, old != nil && proto.Equal(old.GetSpec(), ip.GetSpec()):
		return nil
	case old != nil && resource.Terminating(old):
		return fault.Refuse("spec", "FieldValueForbidden", "the address is being deleted and can't be changed")
	case old != nil && old.GetStatus().GetAddress() != "":
		return admitChange(old, ip)
	}
	wanted, err := wantedAddress(ip.GetSpec())
	switch {
	case err != nil:
		return fault.Refuse("spec.staticIP", "FieldValueInvalid", "%q is not an IP address", ip.GetSpec().GetStaticIp())
	case !wanted.IsValid():
		return nil
	}
	// A change to an address out of range passes, and its status says so (api.md
	// of the platform, A.3: a warning).
	if misfit := a.Leases.Check(wanted); misfit != nil && old == nil {
		return fault.Refuse("spec.staticIP", "FieldValueInvalid", "%s", fault.From(misfit).Message)
	}
	return a.Leases.AdmitAddress(Owner(ip), wanted)
}

// admitChange judges a change of one that has its address already: it may only
// say that it wants what it has.
func admitChange(old, ip *networkv1.VirtualMachineIPAddress) error {
	has, before, after := old.GetStatus().GetAddress(), old.GetSpec(), ip.GetSpec()
	switch {
	case before.GetType() == networkv1.IPAddressType_Static && after.GetType() != before.GetType():
		return fault.Refuse("spec.type", "FieldValueForbidden", "can't be changed from Static once the address is bound")
	case after.GetStaticIp() != has:
		return fault.Refuse("spec.staticIP", "FieldValueForbidden",
			"can't be changed once the address is bound: only %s, which it has, can be named", has)
	}
	return nil
}
