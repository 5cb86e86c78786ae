package machine

import (
	"context"
	"fmt"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const (
	kindAddress = "VirtualMachineIPAddress"
	kindMAC     = "VirtualMachineMACAddress"

	// allocateAgain is when to ask again for an address where there was none.
	allocateAgain = 10 * time.Second
)

// MACNameOf is the name of the VirtualMachineMACAddress that a spec asks for; empty
// for one that is made.
func MACNameOf(spec *vmv1.VirtualMachineSpec) string {
	if networks := spec.GetNetworks(); len(networks) > 0 {
		return networks[0].GetVirtualMachineMacAddressName()
	}
	return ""
}

// observeAddresses finds the VM's addresses, and makes those of which the spec
// names none and there is none.
func (r *Reconciler) observeAddresses(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	ipName, macName := vm.GetSpec().GetVirtualMachineIpAddressName(), MACNameOf(vm.GetSpec())
	o.address, o.mac = r.Addresses.Find(vm, ipName), r.MACs.Find(vm, macName)
	o.addressProblem = addressProblem(vm, kindAddress, ipName, o.address, o.address.GetStatus())
	o.macProblem = addressProblem(vm, kindMAC, macName, o.mac, o.mac.GetStatus())
	lacksIP, lacksMAC := o.address == nil && ipName == "", o.mac == nil && macName == ""
	if deleted(vm) || !lacksIP && !lacksMAC {
		return nil
	}
	err := r.Allocator.Allocate(ctx, vm, lacksIP, lacksMAC)
	if lacksIP {
		o.addressProblem = allocationProblem(kindAddress, "An address is being made.", err)
	}
	if lacksMAC {
		o.macProblem = allocationProblem(kindMAC, "A MAC address is being made.", err)
	}
	if fault.Is(err, fault.Exhausted, fault.NotReady) {
		o.again = allocateAgain
		return nil // the status says so
	}
	return err
}

// allocationProblem is why there is no address yet.
func allocationProblem(kind, waits string, err error) *problem {
	if err != nil {
		waits = fault.From(err).Message
	}
	return &problem{kind + "NotReady", waits}
}

// addressStatus is that of each kind of address.
type addressStatus interface {
	GetAddress() string
	GetPhase() networkv1.IPAddressPhase_Value
	GetConditions() []*metav1.Condition
}

// addressProblem says why a VM can't have an address; nil if it can.
func addressProblem(vm *vmv1.VirtualMachine, kind, name string, address resource.Object, status addressStatus) *problem {
	if !address.ProtoReflect().IsValid() {
		return &problem{kind + "NotReady", fmt.Sprintf("%s %s does not exist.", kind, name)}
	}
	name = address.GetMetadata().GetName()
	for _, holder := range address.GetMetadata().GetHolders() {
		if holder.GetUid() != vm.GetMetadata().GetUid() {
			return &problem{kind + "NotAvailable",
				fmt.Sprintf("%s %s belongs to %s %s.", kind, name, holder.GetKind(), holder.GetName())}
		}
	}
	if address.GetMetadata().GetDeletionTimestamp() != nil {
		return &problem{kind + "NotReady", fmt.Sprintf("%s %s is being deleted.", kind, name)}
	}
	if status.GetAddress() != "" && status.GetPhase() != networkv1.IPAddressPhase_Pending {
		return nil
	}
	message := fmt.Sprintf("%s %s has no address yet.", kind, name)
	for _, c := range status.GetConditions() {
		if c.GetType() == "Bound" && c.GetMessage() != "" {
			message = fmt.Sprintf("%s %s: %s", kind, name, c.GetMessage())
		}
	}
	return &problem{kind + "NotReady", message}
}

func activelyHeld(address resource.Object, vm *vmv1.VirtualMachine) bool {
	return holderIn(address, vm).GetActive()
}

func holderIn(address resource.Object, vm *vmv1.VirtualMachine) *metav1.Holder {
	for _, holder := range address.GetMetadata().GetHolders() {
		if holder.GetUid() == vm.GetMetadata().GetUid() {
			return holder
		}
	}
	return nil
}

// claimCard sees to it that a VM that runs has a MAC. One that runs since before
// there were leases of MACs has none yet.
func (r *Reconciler) claimCard(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if o.card != nil || o.mac == nil || o.macProblem != nil {
		return nil
	}
	_, err := r.MACs.Claim(ctx, o.mac, User(vm, o.record))
	return err
}

// settleAddresses makes a VM without an instance refer to the addresses of its
// spec, and to no others.
func (r *Reconciler) settleAddresses(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if err := settle(ctx, vm, r.MACs, o.mac); err != nil {
		return err
	}
	return settle(ctx, vm, r.Addresses, o.address)
}

func settle[T resource.Object](ctx context.Context, vm *vmv1.VirtualMachine, all Addresses[T], wanted T) error {
	refers, settled := holderOf(vm, false), false
	exists := wanted.ProtoReflect().IsValid()
	for _, address := range all.Held(refers) {
		if exists && address.GetMetadata().GetUid() == wanted.GetMetadata().GetUid() {
			settled = !activelyHeld(address, vm)
			continue
		}
		if err := all.Release(ctx, address, refers); err != nil {
			return err
		}
	}
	if settled || !exists {
		return nil
	}
	_, err := all.Claim(ctx, wanted, refers)
	if fault.Is(err, fault.NotReady, fault.NotFound, fault.Exists, fault.Denied) {
		return nil // the address is another VM's, or goes: the status says so
	}
	return err
}

// leaveAddresses lets go of all addresses that a deleted VM had.
func (r *Reconciler) leaveAddresses(ctx context.Context, vm *vmv1.VirtualMachine) error {
	err := leave(ctx, vm, r.Addresses, r.Addresses.Find(vm, vm.GetSpec().GetVirtualMachineIpAddressName()))
	if err != nil {
		return err
	}
	return leave(ctx, vm, r.MACs, r.MACs.Find(vm, MACNameOf(vm.GetSpec())))
}

func leave[T resource.Object](ctx context.Context, vm *vmv1.VirtualMachine, all Addresses[T], own T) error {
	holder := holderOf(vm, false)
	addresses := all.Held(holder)
	if own.ProtoReflect().IsValid() {
		addresses = append(addresses, own)
	}
	for _, address := range addresses {
		if err := all.Release(ctx, address, holder); err != nil {
			return err
		}
	}
	return nil
}
