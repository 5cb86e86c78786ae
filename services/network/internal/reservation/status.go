package reservation

import (
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

// Types of an address' conditions (api.md of the platform, A.2).
const (
	typeBound    = "Bound"
	typeAttached = "Attached"
)

// status says what was observed.
func (r *Reconciler[A, T]) status(object T, o observation[A]) proto.Message {
	status := Status{
		Phase: phase(object, o.bound), Machine: Machine(object).GetName(),
		Conditions: r.conditions(object, o), ObservedGeneration: object.GetMetadata().GetGeneration(),
	}
	if o.known {
		status.Address = o.address.String()
	}
	return r.Kind.NewStatus(status)
}

func phase(object resource.Object, bound bool) networkv1.IPAddressPhase_Value {
	switch {
	case !bound:
		return networkv1.IPAddressPhase_Pending
	case Machine(object) != nil:
		return networkv1.IPAddressPhase_Attached
	}
	return networkv1.IPAddressPhase_Bound
}

func (r *Reconciler[A, T]) conditions(object T, o observation[A]) []*metav1.Condition {
	list := condition.List{Old: r.Kind.Status(object).Conditions, Generation: object.GetMetadata().GetGeneration(), Now: r.Now()}
	switch {
	case o.bound:
		list.True(typeBound, "Bound", "")
	case o.fault != nil:
		list.False(typeBound, o.fault.Reason, o.fault.Message)
	default:
		list.False(typeBound, r.Kind.reason(lease.NotFound), "The address has no lease.")
	}
	if machine := Machine(object); machine != nil {
		list.True(typeAttached, "Attached", "")
	} else {
		list.False(typeAttached, "VirtualMachineNotFound", "No VirtualMachine uses the address.")
	}
	return list.Conditions()
}
