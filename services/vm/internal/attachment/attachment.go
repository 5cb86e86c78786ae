// Package attachment has the rules of a VirtualMachineBlockDeviceAttachment: what
// it waits for, when its device is plugged into its VM and when it is taken away,
// which attachments exclude each other.
//
// It must not know how a guest is run (an Engine does), nor start or stop one:
// package machine does, and gives an instance what an earlier one had.
package attachment

import (
	"context"
	"slices"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/power"
)

// Engine plugs devices into instances, which are known by their VM's UID.
type Engine interface {
	// Look says how an instance is, and which devices were plugged into it.
	Look(ctx context.Context, uid string) (machine.Sight, error)
	// Plug gives a running instance a device. Idempotent. Class NotFound where
	// there is no instance.
	Plug(ctx context.Context, uid string, device machine.Device) error
	// Unplug takes away a device that was plugged in, by its ID, and returns when
	// neither the guest nor the engine has it any more. Idempotent; what isn't
	// there is no error, instances among it.
	Unplug(ctx context.Context, uid, device string) error
}

// Machines finds VMs, and wakes what runs them.
type Machines interface {
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
	Wake(key resource.Key)
}

// Reconciler attaches devices, and detaches them.
type Reconciler struct {
	Machines Machines
	Devices  machine.Devices
	Engine   Engine
	Power    *power.Store
	// All lists the attachments of a namespace.
	All func(namespace string) ([]*vmv1.VirtualMachineBlockDeviceAttachment, error)
	Now func() time.Time
}

// observation is what one look at an attachment found.
type observation struct {
	vm     *vmv1.VirtualMachine // nil where there is none
	record *power.Record
	sight  machine.Sight
	device machine.DeviceState
	// plugged is true where the guest has the device.
	plugged bool
	// conflict says what excludes the attachment; empty where nothing does.
	conflict string
	// others is how many devices the VM has or is to have besides.
	others int
	// failure is why the last step didn't come to its end, nil where it did.
	failure *fault.Fault
	// booted is true where the instance has the device from its spec, which does not
	// name it any more.
	booted bool
	// making is true of a disk that is being made for the VM.
	making bool
}

// lookAgain is how often a device that doesn't go is asked again.
const lookAgain = 5 * time.Second

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, a *vmv1.VirtualMachineBlockDeviceAttachment) (reconcile.Result, error) {
	o := new(observation)
	if err := r.observe(ctx, a, o); err != nil {
		return reconcile.Result{}, err
	}
	if a.GetMetadata().GetDeletionTimestamp() != nil {
		err := r.detach(ctx, a, o)
		if err == nil {
			return reconcile.Result{Finalized: true}, nil
		}
		o.failure = fault.From(err)
		return reconcile.Result{Status: r.status(a, o), After: lookAgain}, err
	}
	err := r.attach(ctx, a, o)
	o.failure = fault.From(err)
	return reconcile.Result{Status: r.status(a, o)}, err
}

func (r *Reconciler) observe(ctx context.Context, a *vmv1.VirtualMachineBlockDeviceAttachment, o *observation) error {
	namespace, ref := a.GetMetadata().GetNamespace(), RefOf(a)
	all, err := r.All(namespace)
	if err != nil {
		return err
	}
	o.device, o.record = r.Devices.State(ref, namespace), new(power.Record)
	vm, found := r.Machines.Machine(MachineOf(a))
	if !found {
		o.conflict = conflict(a, nil, all)
		return nil
	}
	o.vm, o.others = vm, devicesBeside(a, vm, all)
	uid := vm.GetMetadata().GetUid()
	if o.record, err = r.Power.Get(ctx, uid); err != nil {
		return err
	}
	if o.sight, err = r.Engine.Look(ctx, uid); err != nil {
		return err
	}
	o.look(a)
	o.booted = machine.Booted(o.record, ref)
	if !o.plugged {
		o.conflict = conflict(a, vm, all)
	}
	return nil
}

// look finds the device among those of the instance. It may be another
// attachment's: that of an older one to the same VM.
func (o *observation) look(a *vmv1.VirtualMachineBlockDeviceAttachment) {
	o.plugged = slices.Contains(o.sight.IDs(), machine.DeviceID(RefOf(a)))
}

// runs reports whether the VM has an instance that can be given devices.
func (o *observation) runs() bool {
	state := o.sight.State
	return o.vm != nil && o.record.Node != "" && !o.record.Awaits && !machine.Stopping(o.vm, o.record) &&
		(state == machine.Running || state == machine.Paused)
}

// attach does the next step to give the VM the device.
func (r *Reconciler) attach(ctx context.Context, a *vmv1.VirtualMachineBlockDeviceAttachment, o *observation) error {
	switch {
	case o.conflict != "", o.plugged, o.booted, !o.runs(), o.others >= machine.MaxDevices, emulated(o.vm), !o.usable():
		return nil
	}
	uid, ref := o.vm.GetMetadata().GetUid(), RefOf(a)
	device, err := r.Devices.Claim(ctx, ref, machine.User(o.vm, o.record))
	if err != nil {
		return err
	}
	if device.Node != "" && device.Node != o.record.Node {
		if _, err := r.Devices.Claim(ctx, ref, machine.Reference(o.vm)); err != nil {
			return err
		}
		return fault.New(fault.NotReady, reasonNotOnNode, "%s is on node %s, and the VM runs on %s", describe(ref), device.Node, o.record.Node)
	}
	if device.Path == "" {
		o.making = true
		return nil // the disk service makes it now, and wakes the attachment
	}
	if device.Node != "" {
		// From now on the VM can't leave its node.
		if err := r.pin(ctx, uid, ref, true); err != nil {
			return err
		}
	}
	if err := r.Engine.Plug(ctx, uid, device); err != nil {
		return err
	}
	if o.sight, err = r.Engine.Look(ctx, uid); err != nil {
		return err
	}
	o.look(a)
	r.Machines.Wake(MachineOf(a))
	return nil
}

// pin writes down whether a VM has a disk that is on its node only.
func (r *Reconciler) pin(ctx context.Context, uid string, ref *vmv1.BlockDeviceRef, on bool) error {
	return r.Power.Change(ctx, uid, func(record *power.Record) {
		record.Pinned = slices.DeleteFunc(record.Pinned, func(name string) bool { return name == describe(ref) })
		if on {
			record.Pinned = append(record.Pinned, describe(ref))
		}
	})
}

// usable reports whether the device can be claimed: it is Ready and free, or waits
// for this VM to be made.
func (o *observation) usable() bool {
	holder, uid := o.device.HeldBy.GetUid(), o.vm.GetMetadata().GetUid()
	ours := holder == uid
	return o.device.Found && (holder == "" || ours) &&
		(o.device.Ready || o.device.AwaitsConsumer || o.device.InMaking && ours)
}

// detach takes the device away from the VM, and ends the VM's claim on it. Others
// may have a right to the device: then it is left to them.
func (r *Reconciler) detach(ctx context.Context, a *vmv1.VirtualMachineBlockDeviceAttachment, o *observation) error {
	if o.vm == nil {
		return nil // whoever deleted the VM has let go of its devices
	}
	all, err := r.All(a.GetMetadata().GetNamespace())
	if err != nil {
		return err
	}
	if o.booted || shared(a, o.vm, all) {
		return nil
	}
	if err := r.Engine.Unplug(ctx, o.vm.GetMetadata().GetUid(), machine.DeviceID(RefOf(a))); err != nil {
		return err
	}
	if slices.Contains(o.record.Pinned, describe(RefOf(a))) {
		if err := r.pin(ctx, o.vm.GetMetadata().GetUid(), RefOf(a), false); err != nil {
			return err
		}
	}
	if err := r.Devices.Release(ctx, RefOf(a), machine.Reference(o.vm)); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	r.Machines.Wake(MachineOf(a))
	return nil
}

// RefOf is an attachment's device, as a VM names its own.
func RefOf(a *vmv1.VirtualMachineBlockDeviceAttachment) *vmv1.BlockDeviceRef {
	ref := a.GetSpec().GetBlockDeviceRef()
	return &vmv1.BlockDeviceRef{Kind: ref.GetKind(), Name: ref.GetName()}
}

// MachineOf is the VM of an attachment.
func MachineOf(a *vmv1.VirtualMachineBlockDeviceAttachment) resource.Key {
	return resource.Key{Namespace: a.GetMetadata().GetNamespace(), Name: a.GetSpec().GetVirtualMachineName()}
}

// emulated reports whether the VM has devices that can't be plugged in.
func emulated(vm *vmv1.VirtualMachine) bool {
	spec := vm.GetSpec()
	return spec != nil && spec.EnableParavirtualization != nil && !spec.GetEnableParavirtualization()
}

func describe(ref *vmv1.BlockDeviceRef) string { return ref.GetKind().String() + " " + ref.GetName() }
