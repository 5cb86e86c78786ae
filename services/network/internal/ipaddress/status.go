package ipaddress

import (
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/reconcile/condition"
)

// Types of an address' conditions (api.md of the platform, A.2).
const (
	typeBound    = "Bound"
	typeAttached = "Attached"
)

// status says what was observed.
func (r *Reconciler) status(ip *networkv1.VirtualMachineIPAddress, o observation) *networkv1.VirtualMachineIPAddressStatus {
	status := &networkv1.VirtualMachineIPAddressStatus{
		Phase:              phase(ip, o),
		VirtualMachineName: Machine(ip).GetName(),
		Conditions:         r.conditions(ip, o),
		ObservedGeneration: ip.GetMetadata().GetGeneration(),
	}
	if o.address.IsValid() {
		status.Address = o.address.String()
	}
	return status
}

func phase(ip *networkv1.VirtualMachineIPAddress, o observation) networkv1.IPAddressPhase_Value {
	switch {
	case !o.bound:
		return networkv1.IPAddressPhase_Pending
	case Machine(ip) != nil:
		return networkv1.IPAddressPhase_Attached
	}
	return networkv1.IPAddressPhase_Bound
}

func (r *Reconciler) conditions(ip *networkv1.VirtualMachineIPAddress, o observation) []*metav1.Condition {
	list := condition.List{Old: ip.GetStatus().GetConditions(), Generation: ip.GetMetadata().GetGeneration(), Now: r.Now()}
	switch {
	case o.bound:
		list.True(typeBound, "Bound", "")
	case o.fault != nil:
		list.False(typeBound, o.fault.Reason, o.fault.Message)
	default:
		list.False(typeBound, "VirtualMachineIPAddressLeaseNotFound", "The address has no lease.")
	}
	if machine := Machine(ip); machine != nil {
		list.True(typeAttached, "Attached", "")
	} else {
		list.False(typeAttached, "VirtualMachineNotFound", "No VirtualMachine uses the address.")
	}
	return list.Conditions()
}
