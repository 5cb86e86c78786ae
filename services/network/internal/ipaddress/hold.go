package ipaddress

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// Reasons of faults of a claim.
const (
	ReasonNotReady     = "VirtualMachineIPAddressNotReady"
	ReasonAlreadyInUse = "VirtualMachineIPAddressAlreadyInUse"
)

// AdmitHolder refuses whoever isn't the one VM of the address, and anybody
// before there is a lease.
func AdmitHolder(ip *networkv1.VirtualMachineIPAddress, holder *metav1.Holder) error {
	name := ip.GetMetadata().GetName()
	if holder.GetKind() != machineKind {
		return fault.Refuse("holder.kind", "FieldValueInvalid", "only a VirtualMachine can use an address")
	}
	known := false
	for _, other := range ip.GetMetadata().GetHolders() {
		if other.GetUid() != holder.GetUid() {
			return fault.New(fault.NotReady, ReasonAlreadyInUse, "VirtualMachineIPAddress %s belongs to %s %s.",
				name, other.GetKind(), other.GetName())
		}
		known = other.GetActive()
	}
	switch {
	case holder.GetActive() && !known && resource.Terminating(ip):
		return fault.New(fault.NotReady, resource.ReasonTerminating, "VirtualMachineIPAddress %s is being deleted.", name)
	case !bound(ip):
		return fault.New(fault.NotReady, ReasonNotReady, "VirtualMachineIPAddress %s has no address yet.", name)
	}
	return nil
}

// bound reports whether the address has been told, with a lease.
func bound(ip *networkv1.VirtualMachineIPAddress) bool {
	return ip.GetStatus().GetAddress() != "" && ip.GetStatus().GetPhase() != networkv1.IPAddressPhase_Pending
}
