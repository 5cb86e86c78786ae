package reservation

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

// Reasons of faults of a claim.
const (
	NotReady     lease.Reason = "NotReady"
	AlreadyInUse lease.Reason = "AlreadyInUse"

	invalid lease.Reason = "Invalid"
)

// AdmitHolder refuses whoever isn't the one VM of the address, and anybody
// before there is a lease.
func (k Kind[A, T]) AdmitHolder(object T, holder *metav1.Holder) error {
	name := object.GetMetadata().GetName()
	if holder.GetKind() != machineKind {
		return fault.Refuse("holder.kind", "FieldValueInvalid", "only a VirtualMachine can use an address")
	}
	known := false
	for _, other := range object.GetMetadata().GetHolders() {
		if other.GetUid() != holder.GetUid() {
			return fault.New(fault.NotReady, k.reason(AlreadyInUse), "%s %s belongs to %s %s.",
				k.Name, name, other.GetKind(), other.GetName())
		}
		known = other.GetActive()
	}
	switch {
	case holder.GetActive() && !known && resource.Terminating(object):
		return fault.New(fault.NotReady, resource.ReasonTerminating, "%s %s is being deleted.", k.Name, name)
	case !k.Status(object).Bound():
		return fault.New(fault.NotReady, k.reason(NotReady), "%s %s has no address yet.", k.Name, name)
	}
	return nil
}
