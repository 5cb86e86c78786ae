package machine

import (
	"context"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/power"
)

// User is a VM that runs, as the holder of what it uses.
func User(vm *vmv1.VirtualMachine, record *power.Record) *metav1.Holder {
	holder := holderOf(vm, true)
	holder.Node = record.Node
	return holder
}

// Reference is a VM as the holder of what it only refers to.
func Reference(vm *vmv1.VirtualMachine) *metav1.Holder { return holderOf(vm, false) }

// Stopping reports whether the VM's instance, if there is one, is to end.
func Stopping(vm *vmv1.VirtualMachine, record *power.Record) bool { return stopping(vm, record) }

// Booted reports whether the VM's instance was started with a device of its spec,
// which may be another one by now.
func Booted(record *power.Record, ref *vmv1.BlockDeviceRef) bool {
	applied := new(vmv1.VirtualMachineSpec)
	options := protojson.UnmarshalOptions{DiscardUnknown: true}
	if len(record.Applied) == 0 || options.Unmarshal(record.Applied, applied) != nil {
		return false
	}
	return slices.ContainsFunc(applied.GetBlockDeviceRefs(), func(own *vmv1.BlockDeviceRef) bool { return sameRef(own, ref) })
}

// among are the attachments of the devices with these IDs, in that order.
func among(attachments []Attachment, devices []string) []Attachment {
	var found []Attachment
	for _, id := range devices {
		at := slices.IndexFunc(attachments, func(a Attachment) bool { return DeviceID(a.Ref) == id })
		if at >= 0 {
			found = append(found, attachments[at])
		}
	}
	return found
}

func refsOf(attachments []Attachment) []*vmv1.BlockDeviceRef {
	var refs []*vmv1.BlockDeviceRef
	for _, a := range attachments {
		refs = append(refs, a.Ref)
	}
	return refs
}

// preparePlugged claims what the last instance had of attachments, so that the
// guest boots with it in its old order. What can't be had now does not keep the
// VM from starting: it is plugged in later.
func (r *Reconciler) preparePlugged(ctx context.Context, o *observation, holder *metav1.Holder) ([]Device, error) {
	var devices []Device
	for _, a := range among(o.wanted, o.record.Plugged) {
		if !r.Devices.State(a.Ref, holder.GetNamespace()).Ready {
			continue
		}
		device, err := r.Devices.Claim(ctx, a.Ref, holder)
		switch {
		case ctx.Err() != nil:
			return nil, err
		case err == nil && device.Path != "" && (device.Node == "" || device.Node == o.record.Node):
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// deviceStatuses are of the devices that the instance has; without one, of those
// that it would have.
func (r *Reconciler) deviceStatuses(vm *vmv1.VirtualMachine, o *observation) []*vmv1.BlockDeviceStatus {
	refs, states, attached := vm.GetSpec().GetBlockDeviceRefs(), o.devices, o.applied != nil
	if attached {
		refs, states = o.applied.GetBlockDeviceRefs(), o.attached
	}
	names := targets{guest: o.sight.Agent}
	var statuses []*vmv1.BlockDeviceStatus
	for i, ref := range refs {
		status := &vmv1.BlockDeviceStatus{Kind: ref.GetKind(), Name: ref.GetName(), Size: &states[i].Size, Attached: &attached}
		if attached {
			status.Target = names.of(ref, states[i].CDROM)
		}
		statuses = append(statuses, status)
	}
	if o.applied.GetProvisioning() != nil {
		names.next(true) // the seed's CD-ROM is the last of those that are there at boot
	}
	for _, p := range o.sight.Plugged {
		for _, a := range among(o.present, []string{p.ID}) {
			statuses = append(statuses, r.pluggedStatus(vm, a, names.plugged(p.Place)))
		}
	}
	return statuses
}

// pluggedStatus is of a device that came by an attachment.
func (r *Reconciler) pluggedStatus(vm *vmv1.VirtualMachine, a Attachment, names targets) *vmv1.BlockDeviceStatus {
	state, hotplugged, attached := r.Devices.State(a.Ref, vm.GetMetadata().GetNamespace()), true, true
	return &vmv1.BlockDeviceStatus{
		Kind: a.Ref.GetKind(), Name: a.Ref.GetName(), Size: &state.Size, Attached: &attached,
		Target: names.of(a.Ref, state.CDROM), Hotplugged: &hotplugged,
		VirtualMachineBlockDeviceAttachmentName: a.Name,
	}
}

// targets names devices as the guest does: by what its agent said, else as Linux
// does at boot, which counts disks and CD-ROMs apart.
type targets struct {
	guest         *Agent // nil where it says nothing
	disks, cdroms int
}

func (t *targets) of(ref *vmv1.BlockDeviceRef, cdrom bool) string {
	name := t.next(cdrom)
	if t.guest != nil && t.guest.Targets[DeviceID(ref)] != "" {
		return t.guest.Targets[DeviceID(ref)]
	}
	return name
}

// plugged names the device at a place behind all that were there at boot.
func (t *targets) plugged(place int) targets {
	return targets{guest: t.guest, disks: t.disks + place, cdroms: t.cdroms + place}
}

func (t *targets) next(cdrom bool) string {
	if cdrom {
		t.cdroms++
		return "sr" + string(rune('0'+t.cdroms-1))
	}
	t.disks++
	return "sd" + string(rune('a'+t.disks-1))
}
