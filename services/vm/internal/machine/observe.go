package machine

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/class"
)

func (r *Reconciler) observe(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid := vm.GetMetadata().GetUid()
	var err error
	if o.record, err = r.Power.Get(ctx, uid); err != nil {
		return err
	}
	if o.sight, err = r.Engine.Look(ctx, uid); err != nil {
		return err
	}
	o.wanted = r.Attachments.Of(vm)
	r.observeClass(vm, o)
	r.observeDevices(vm, o)
	r.observeProvisioning(ctx, vm, o)
	if err := r.observeAddress(ctx, vm, o); err != nil {
		return err
	}
	return r.observeInstance(vm, o)
}

// observeInstance finds what an instance runs with, which may be something else
// than its spec by now.
func (r *Reconciler) observeInstance(vm *vmv1.VirtualMachine, o *observation) error {
	if !o.sight.State.Alive() {
		return nil
	}
	for _, address := range r.Addresses.Held(holderOf(vm, true)) {
		if activelyHeld(address, vm) {
			o.plugged = address
		}
	}
	o.present = among(o.wanted, o.sight.IDs())
	if len(o.record.Applied) == 0 {
		return nil
	}
	o.applied = new(vmv1.VirtualMachineSpec)
	options := protojson.UnmarshalOptions{DiscardUnknown: true} // an older version may have written it
	if err := options.Unmarshal(o.record.Applied, o.applied); err != nil {
		return fmt.Errorf("applied spec: %w", err)
	}
	for _, ref := range o.applied.GetBlockDeviceRefs() {
		o.attached = append(o.attached, r.Devices.State(ref, vm.GetMetadata().GetNamespace()))
	}
	var err error
	o.changes, err = changesSince(o.record.Applied, vm.GetSpec())
	o.changes = append(o.changes, secretChange(vm, o)...)
	return err
}

func (r *Reconciler) observeClass(vm *vmv1.VirtualMachine, o *observation) {
	name := vm.GetSpec().GetVirtualMachineClassName()
	found := false
	if o.class, found = r.Classes.Class(name); !found {
		message := fmt.Sprintf("VirtualMachineClass %s does not exist.", name)
		o.classProblem = &problem{"VirtualMachineClassNotReady", message}
		o.sizingProblem = &problem{"VirtualMachineClassNotFound", message}
		return
	}
	if o.class.GetStatus().GetPhase() != vmv1.ClassPhase_Ready {
		o.classProblem = &problem{"VirtualMachineClassNotReady",
			fmt.Sprintf("VirtualMachineClass %s is not Ready: %s", name, classPhase(o.class))}
	}
	if mismatch := class.Mismatch(o.class, vm.GetSpec()); mismatch != "" {
		o.sizingProblem = &problem{"SizingPolicyNotMatched", "Class " + name + " does not allow this size: " + mismatch}
	}
}

func classPhase(class *vmv1.VirtualMachineClass) string {
	if phase := class.GetStatus().GetPhase(); phase != 0 {
		return phase.String()
	}
	return "nobody has looked at it yet"
}

func (r *Reconciler) observeDevices(vm *vmv1.VirtualMachine, o *observation) {
	var waits, awaited []string
	for _, ref := range vm.GetSpec().GetBlockDeviceRefs() {
		state := r.Devices.State(ref, vm.GetMetadata().GetNamespace())
		o.devices = append(o.devices, state)
		switch {
		case !state.Found:
			waits = append(waits, describe(ref)+" does not exist")
		case state.AwaitsConsumer, state.InMaking && state.HeldBy.GetUid() == vm.GetMetadata().GetUid():
			awaited = append(awaited, lack(ref, state))
		case !state.Ready:
			waits = append(waits, lack(ref, state))
		case state.HeldBy != nil && state.HeldBy.GetUid() != vm.GetMetadata().GetUid():
			waits = append(waits, describe(ref)+" is in use by "+state.HeldBy.GetKind()+" "+state.HeldBy.GetName())
		}
	}
	reason := "BlockDevicesNotReady"
	if o.awaits = len(waits) == 0 && len(awaited) > 0; o.awaits {
		reason = "WaitingForTheProvisioningToPersistentVolumeClaim"
	}
	if waits = append(waits, awaited...); len(waits) > 0 {
		o.devicesProblem = &problem{reason, "Waits for block devices: " + strings.Join(waits, "; ")}
	}
}

func lack(ref *vmv1.BlockDeviceRef, state DeviceState) string {
	return strings.TrimSuffix(describe(ref)+" is "+phaseOf(state)+": "+state.Message, ": ")
}

// observeAddress finds the VM's address, and makes one where the spec names
// none and there is none.
func (r *Reconciler) observeAddress(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	name := vm.GetSpec().GetVirtualMachineIpAddressName()
	o.address = r.Addresses.Find(vm, name)
	if o.address == nil && name == "" && !deleted(vm) {
		o.addressProblem = &problem{"VirtualMachineIPAddressNotReady", "An address is being made."}
		return r.Addresses.Make(ctx, vm)
	}
	o.addressProblem = addressProblem(vm, o.address, name)
	return nil
}

func addressProblem(vm *vmv1.VirtualMachine, address *networkv1.VirtualMachineIPAddress, name string) *problem {
	if address == nil {
		return &problem{"VirtualMachineIPAddressNotReady", fmt.Sprintf("VirtualMachineIPAddress %s does not exist.", name)}
	}
	name = address.GetMetadata().GetName()
	for _, holder := range address.GetMetadata().GetHolders() {
		if holder.GetUid() != vm.GetMetadata().GetUid() {
			return &problem{"VirtualMachineIPAddressNotAvailable",
				fmt.Sprintf("VirtualMachineIPAddress %s belongs to %s %s.", name, holder.GetKind(), holder.GetName())}
		}
	}
	if address.GetMetadata().GetDeletionTimestamp() != nil {
		return &problem{"VirtualMachineIPAddressNotReady", fmt.Sprintf("VirtualMachineIPAddress %s is being deleted.", name)}
	}
	if address.GetStatus().GetAddress() != "" && address.GetStatus().GetPhase() != networkv1.IPAddressPhase_Pending {
		return nil
	}
	message := fmt.Sprintf("VirtualMachineIPAddress %s has no address yet.", name)
	for _, c := range address.GetStatus().GetConditions() {
		if c.GetType() == "Bound" && c.GetMessage() != "" {
			message = fmt.Sprintf("VirtualMachineIPAddress %s: %s", name, c.GetMessage())
		}
	}
	return &problem{"VirtualMachineIPAddressNotReady", message}
}

func phaseOf(state DeviceState) string {
	if state.Phase == "" {
		return "not Ready"
	}
	return state.Phase
}

func activelyHeld(address *networkv1.VirtualMachineIPAddress, vm *vmv1.VirtualMachine) bool {
	for _, holder := range address.GetMetadata().GetHolders() {
		if holder.GetUid() == vm.GetMetadata().GetUid() {
			return holder.GetActive()
		}
	}
	return false
}

func describe(ref *vmv1.BlockDeviceRef) string {
	return ref.GetKind().String() + " " + ref.GetName()
}
