package machine

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

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
	if err := r.observeAddresses(ctx, vm, o); err != nil {
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
	for _, mac := range r.MACs.Held(holderOf(vm, true)) {
		if activelyHeld(mac, vm) {
			o.card = mac
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

func phaseOf(state DeviceState) string {
	if state.Phase == "" {
		return "not Ready"
	}
	return state.Phase
}

func describe(ref *vmv1.BlockDeviceRef) string {
	return ref.GetKind().String() + " " + ref.GetName()
}
