package reservation

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/lease"
)

// Status is what was observed of an object, of whatever kind.
type Status struct {
	Phase              networkv1.IPAddressPhase_Value
	Address            string
	Machine            string
	Conditions         []*metav1.Condition
	ObservedGeneration int32
}

// Bound reports whether the address has been told, with a lease.
func (s Status) Bound() bool {
	return s.Address != "" && s.Phase != networkv1.IPAddressPhase_Pending
}

// Kind is where the objects of one kind have what.
type Kind[A lease.Address, T resource.Object] struct {
	// Name of the kind; reasons begin with it.
	Name string
	// Field is the path of the address that spec names.
	Field string

	Spec func(T) proto.Message
	// Wish is the address that spec names; empty where any will do.
	Wish func(T) string
	// Parse reads an address.
	Parse func(string) (A, error)
	// Keeps refuses changes of the spec of one that has its address already, beyond
	// those of the address; nil refuses none.
	Keeps     func(old, changed T) error
	Status    func(T) Status
	NewStatus func(Status) proto.Message
}

// reason is the whole of a reason.
func (k Kind[A, T]) reason(r lease.Reason) string { return k.Name + string(r) }

// wish is the address that spec names; false where any will do.
func (k Kind[A, T]) wish(object T) (wanted A, named bool, err error) {
	text := k.Wish(object)
	if text == "" {
		return wanted, false, nil
	}
	if wanted, err = k.Parse(text); err != nil {
		return wanted, true, fault.New(fault.Invalid, k.reason(invalid), "%s.", err)
	}
	return wanted, true, nil
}

// told is the address that the status has; false if it has none yet.
func (k Kind[A, T]) told(object T) (A, bool) {
	at, err := k.Parse(k.Status(object).Address)
	return at, err == nil
}

// IPKind is VirtualMachineIPAddress.
func IPKind() Kind[netip.Addr, *networkv1.VirtualMachineIPAddress] {
	type object = *networkv1.VirtualMachineIPAddress
	return Kind[netip.Addr, object]{
		Name: "VirtualMachineIPAddress", Field: "spec.staticIP",
		Spec: func(ip object) proto.Message { return ip.GetSpec() },
		Wish: func(ip object) string {
			if ip.GetSpec().GetType() != networkv1.IPAddressType_Static {
				return ""
			}
			return ip.GetSpec().GetStaticIp()
		},
		Parse: lease.IPs(nil).Parse,
		Keeps: func(old, changed object) error {
			if was := old.GetSpec().GetType(); was == networkv1.IPAddressType_Static && changed.GetSpec().GetType() != was {
				return fault.Refuse("spec.type", "FieldValueForbidden", "can't be changed from Static once the address is bound")
			}
			return nil
		},
		Status: func(ip object) Status {
			s := ip.GetStatus()
			return Status{s.GetPhase(), s.GetAddress(), s.GetVirtualMachineName(), s.GetConditions(), s.GetObservedGeneration()}
		},
		NewStatus: func(s Status) proto.Message {
			return &networkv1.VirtualMachineIPAddressStatus{
				Phase: s.Phase, Address: s.Address, VirtualMachineName: s.Machine,
				Conditions: s.Conditions, ObservedGeneration: s.ObservedGeneration,
			}
		},
	}
}

// MACKind is VirtualMachineMACAddress.
func MACKind() Kind[address.MAC, *networkv1.VirtualMachineMACAddress] {
	type object = *networkv1.VirtualMachineMACAddress
	return Kind[address.MAC, object]{
		Name: "VirtualMachineMACAddress", Field: "spec.address",
		Spec:  func(mac object) proto.Message { return mac.GetSpec() },
		Wish:  func(mac object) string { return mac.GetSpec().GetAddress() },
		Parse: lease.MACs().Parse,
		Status: func(mac object) Status {
			s := mac.GetStatus()
			return Status{s.GetPhase(), s.GetAddress(), s.GetVirtualMachineName(), s.GetConditions(), s.GetObservedGeneration()}
		},
		NewStatus: func(s Status) proto.Message {
			return &networkv1.VirtualMachineMACAddressStatus{
				Phase: s.Phase, Address: s.Address, VirtualMachineName: s.Machine,
				Conditions: s.Conditions, ObservedGeneration: s.ObservedGeneration,
			}
		},
	}
}
