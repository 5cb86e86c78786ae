package machine

import (
	"context"
	"slices"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/class"
)

// prepare claims disks, images and the addresses for a running VM.
func (r *Reconciler) prepare(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (Instance, error) {
	spec, meta := vm.GetSpec(), vm.GetMetadata()
	holder := User(vm, o.record)
	cpu := class.CPUOf(o.class, r.Processor)
	instance := Instance{
		UID: meta.GetUid(), Namespace: meta.GetNamespace(), Name: meta.GetName(),
		CPUModel: cpu.Model, CPUFeatures: cpu.Features, CPUExact: cpu.Exact, Topology: topology(spec.GetCpu().GetCores()),
		MemoryBytes:     memoryOf(spec),
		Paravirtualized: spec.GetEnableParavirtualization(),
		Bootloader:      spec.GetBootloader(), OS: spec.GetOsType(),
	}
	if class.Fraction(spec.GetCpu().GetCoreFraction()) < 100 {
		instance.MilliCPU = milliCPUOf(spec)
	}
	for _, ref := range spec.GetBlockDeviceRefs() {
		device, err := r.Devices.Claim(ctx, ref, holder)
		if err != nil {
			return instance, err
		}
		instance.Devices = append(instance.Devices, device)
	}
	if instance.lacksDevice() {
		return instance, nil
	}
	var err error
	if instance.Plugged, err = r.preparePlugged(ctx, o, holder); err != nil {
		return instance, err
	}
	if _, err = r.MACs.Claim(ctx, o.mac, holder); err != nil {
		return instance, err
	}
	if instance.Port, err = r.Addresses.Claim(ctx, o.address, holder); err != nil {
		return instance, err
	}
	instance.Provisioning = o.provisioning
	return instance, nil
}

// lacksDevice reports whether a disk is still being made for the instance.
func (i Instance) lacksDevice() bool {
	return slices.ContainsFunc(i.Devices, func(d Device) bool { return d.Path == "" })
}

// pinned names the disks of an instance that are on its node only.
func pinned(vm *vmv1.VirtualMachine, attachments []Attachment, instance Instance) []string {
	var names []string
	for i, device := range instance.Devices {
		if device.Node != "" {
			names = append(names, describe(vm.GetSpec().GetBlockDeviceRefs()[i]))
		}
	}
	for _, a := range attachments {
		at := slices.IndexFunc(instance.Plugged, func(d Device) bool { return d.ID == DeviceID(a.Ref) })
		if at >= 0 && instance.Plugged[at].Node != "" {
			names = append(names, describe(a.Ref))
		}
	}
	return names
}

// pins finds the disks that only one node reaches: the node, by the disk's name.
func (r *Reconciler) pins(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (map[string]string, error) {
	pins := map[string]string{}
	own := vm.GetSpec().GetBlockDeviceRefs()
	for i, ref := range slices.Concat(own, refsOf(among(o.wanted, o.record.Plugged))) {
		if ref.GetKind() != vmv1.BlockDeviceKind_VirtualDisk {
			continue
		}
		device, err := r.Devices.Claim(ctx, ref, holderOf(vm, false))
		if err != nil && i >= len(own) && ctx.Err() == nil {
			continue // a VM starts without it
		}
		if err != nil {
			return nil, err
		}
		if device.Node != "" {
			pins[describe(ref)] = device.Node
		}
	}
	return pins, nil
}

// settle makes the claims of a VM without an instance right: it refers to the
// disks and the address of its spec, and to the disks of its attachments, and
// uses nothing. Another claim may be seen
// a little later than it was made: it wakes the VM then.
func (r *Reconciler) settle(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	refers := holderOf(vm, false)
	refs := slices.Concat(vm.GetSpec().GetBlockDeviceRefs(), refsOf(o.wanted))
	wanted := map[string]bool{}
	for _, ref := range refs {
		wanted[describe(ref)] = ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk
	}
	settled := map[string]bool{}
	for _, device := range r.Devices.Held(refers) {
		name := describe(device.Ref)
		settled[name] = !device.Active
		if wanted[name] {
			continue
		}
		if err := r.Devices.Release(ctx, device.Ref, refers); err != nil {
			return err
		}
	}
	for _, ref := range refs {
		if !wanted[describe(ref)] || settled[describe(ref)] || !r.Devices.State(ref, vm.GetMetadata().GetNamespace()).Found {
			continue
		}
		if _, err := r.Devices.Claim(ctx, ref, refers); err != nil && !fault.Is(err, fault.NotReady, fault.NotFound) {
			return err
		}
	}
	return r.settleAddresses(ctx, vm, o)
}

// leave lets go of everything that a deleted VM had. What its spec names is let
// go of even if no claim is seen: it may have been made just now.
func (r *Reconciler) leave(ctx context.Context, vm *vmv1.VirtualMachine) error {
	uid, holder := vm.GetMetadata().GetUid(), holderOf(vm, false)
	if err := r.Engine.Kill(ctx, uid); err != nil {
		return err
	}
	refs := slices.Concat(vm.GetSpec().GetBlockDeviceRefs(), refsOf(r.Attachments.Of(vm)))
	for _, device := range r.Devices.Held(holder) {
		refs = append(refs, device.Ref)
	}
	for _, ref := range refs {
		if err := r.Devices.Release(ctx, ref, holder); err != nil {
			return err
		}
	}
	if err := r.leaveAddresses(ctx, vm); err != nil {
		return err
	}
	if err := r.NonVolatile.Discard(ctx, uid); err != nil {
		return err
	}
	return r.Power.Delete(ctx, uid)
}
