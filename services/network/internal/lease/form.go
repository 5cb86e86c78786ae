package lease

import (
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/resource"
)

// Reason is the end of a fault's reason, which begins with the kind of owners;
// they become reasons of an owner's condition Bound (api.md of the platform, A.2;
// the pool's end has no word there).
type Reason string

// The reasons.
const (
	OutOfRange    Reason = "IsOutOfTheValidRange"
	AlreadyExists Reason = "LeaseAlreadyExists"
	NotReady      Reason = "LeaseNotReady"
	Lost          Reason = "LeaseLost"
	NotFound      Reason = "LeaseNotFound"
	Changed       Reason = "LeaseChanged"
	Exhausted     Reason = "PoolExhausted"
)

// Ref names the owner of a lease. One that was released has the namespace only.
type Ref struct{ Namespace, Name string }

// Status is what was observed of a lease.
type Status struct {
	Phase              networkv1.LeasePhase_Value
	Conditions         []*metav1.Condition
	ObservedGeneration int32
}

// Form is where the leases of one kind have what.
type Form[L resource.Object] struct {
	// Owner is the kind of owners.
	Owner string
	// RefField is the path of the owner's reference.
	RefField string
	// AddressField is the path in an owner of the address that it names.
	AddressField string
	// Example is a name, for people.
	Example string
	// OwnerLabel has the UID of the owner; empty once released.
	OwnerLabel string

	// New makes a lease with that owner and empty metadata.
	New       func(Ref) L
	Ref       func(L) Ref
	SetRef    func(L, Ref)
	Spec      func(L) proto.Message
	Status    func(L) Status
	NewStatus func(Status) proto.Message
}

// Reason is the whole of a reason.
func (f Form[L]) Reason(r Reason) string { return f.Owner + string(r) }

// IPForm is that of VirtualMachineIPAddressLeases.
func IPForm() Form[*networkv1.VirtualMachineIPAddressLease] {
	type leaseOf = *networkv1.VirtualMachineIPAddressLease
	return Form[leaseOf]{
		Owner: "VirtualMachineIPAddress", RefField: "spec.virtualMachineIPAddressRef", AddressField: "spec.staticIP",
		Example: "ip-10-66-10-14", OwnerLabel: "virtualization.deckhouse.io/virtual-machine-ip-address-uid",
		New: func(r Ref) leaseOf {
			l := &networkv1.VirtualMachineIPAddressLease{Metadata: new(metav1.ObjectMeta), Spec: new(networkv1.VirtualMachineIPAddressLeaseSpec)}
			l.Spec.VirtualMachineIpAddressRef = &networkv1.VirtualMachineIPAddressRef{Name: proto.String(r.Name), Namespace: r.Namespace}
			return l
		},
		Ref: func(l leaseOf) Ref {
			ref := l.GetSpec().GetVirtualMachineIpAddressRef()
			return Ref{ref.GetNamespace(), ref.GetName()}
		},
		SetRef: func(l leaseOf, r Ref) {
			l.Spec.VirtualMachineIpAddressRef = &networkv1.VirtualMachineIPAddressRef{Name: proto.String(r.Name), Namespace: r.Namespace}
		},
		Spec: func(l leaseOf) proto.Message { return l.GetSpec() },
		Status: func(l leaseOf) Status {
			return Status{l.GetStatus().GetPhase(), l.GetStatus().GetConditions(), l.GetStatus().GetObservedGeneration()}
		},
		NewStatus: func(s Status) proto.Message {
			return &networkv1.VirtualMachineIPAddressLeaseStatus{
				Phase: s.Phase, Conditions: s.Conditions, ObservedGeneration: s.ObservedGeneration,
			}
		},
	}
}

// MACForm is that of VirtualMachineMACAddressLeases.
func MACForm() Form[*networkv1.VirtualMachineMACAddressLease] {
	type leaseOf = *networkv1.VirtualMachineMACAddressLease
	return Form[leaseOf]{
		Owner: "VirtualMachineMACAddress", RefField: "spec.virtualMachineMACAddressRef", AddressField: "spec.address",
		Example: "mac-82-6d-f0-9f-39-13", OwnerLabel: "virtualization.deckhouse.io/virtual-machine-mac-address-uid",
		New: func(r Ref) leaseOf {
			l := &networkv1.VirtualMachineMACAddressLease{Metadata: new(metav1.ObjectMeta), Spec: new(networkv1.VirtualMachineMACAddressLeaseSpec)}
			l.Spec.VirtualMachineMacAddressRef = &networkv1.VirtualMachineMACAddressRef{Name: proto.String(r.Name), Namespace: r.Namespace}
			return l
		},
		Ref: func(l leaseOf) Ref {
			ref := l.GetSpec().GetVirtualMachineMacAddressRef()
			return Ref{ref.GetNamespace(), ref.GetName()}
		},
		SetRef: func(l leaseOf, r Ref) {
			l.Spec.VirtualMachineMacAddressRef = &networkv1.VirtualMachineMACAddressRef{Name: proto.String(r.Name), Namespace: r.Namespace}
		},
		Spec: func(l leaseOf) proto.Message { return l.GetSpec() },
		Status: func(l leaseOf) Status {
			return Status{l.GetStatus().GetPhase(), l.GetStatus().GetConditions(), l.GetStatus().GetObservedGeneration()}
		},
		NewStatus: func(s Status) proto.Message {
			return &networkv1.VirtualMachineMACAddressLeaseStatus{
				Phase: s.Phase, Conditions: s.Conditions, ObservedGeneration: s.ObservedGeneration,
			}
		},
	}
}
