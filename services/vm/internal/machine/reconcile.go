// Package machine has the rules of a VirtualMachine: what it waits for, when it
// runs, what its status says.
//
// It must not know how a guest is run (an Engine does), nor what disks, images
// and addresses are beyond their being ready and claimable.
package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
)

// Classes finds classes by name.
type Classes interface {
	Class(name string) (*vmv1.VirtualMachineClass, bool)
}

// Reconciler runs VMs as their specs, operations and guests want it.
type Reconciler struct {
	Classes   Classes
	Devices   Devices
	Allocator Allocator
	Addresses Addresses[*networkv1.VirtualMachineIPAddress]
	MACs      Addresses[*networkv1.VirtualMachineMACAddress]
	// Attachments are what VMs are to have besides.
	Attachments Attachments
	// Secrets is nil where there is no Kubernetes API, which has them.
	Secrets Secrets
	// Pods is nil where nothing counts instances before they run.
	Pods   Pods
	Engine Engine
	Rest   Rest
	// NonVolatile goes with the VM, not with an instance.
	NonVolatile NonVolatile
	// Processor is what there is for guests on every node.
	Processor class.Processor
	// Overhead is what running a VM takes beside its memory, in bytes.
	Overhead func(*vmv1.VirtualMachineSpec) int64
	Power    *power.Store
	// Survey finds what a placement depends on.
	Survey *placement.Survey
	// Relocations moves VMs whose nodes no longer fit; nil for none.
	Relocations Relocations
	// KeepOldQEMU leaves VMs where they are that an older QEMU runs than the
	// installed one.
	KeepOldQEMU bool
	// Migrations moves what Engine runs, as Migration says.
	Migrations migration.Engine
	Migration  migration.Settings
	Now        func() time.Time

	watchdog migration.Watchdog
	// placing makes choosing a node and writing it down one step.
	placing sync.Mutex
	// waiting are the VMs that no node has room for, refused those that Kubernetes
	// does not allow a Pod.
	waiting, refused waiting
}

// observation is what one look at a VM found, and all that its status is made
// from.
type observation struct {
	record  *power.Record
	class   *vmv1.VirtualMachineClass
	address *networkv1.VirtualMachineIPAddress
	mac     *networkv1.VirtualMachineMACAddress
	devices []DeviceState // as in spec.blockDeviceRefs
	sight   Sight
	// applied is the spec that the instance runs with, changes what it lacks of
	// the present one; both nil without an instance.
	applied *vmv1.VirtualMachineSpec
	changes []change
	// attached are the devices of applied, in its order.
	attached []DeviceState
	// wanted are the VM's attachments, present those that the instance has, in the
	// order of Sight.Plugged.
	wanted, present []Attachment
	// provisioning is what a guest would be set up from now; provisioned tells one
	// Secret's content from another, and is empty where there is none.
	provisioning Provisioning
	provisioned  string
	// plugged is the address that the instance has, card its MAC.
	plugged *networkv1.VirtualMachineIPAddress
	card    *networkv1.VirtualMachineMACAddress

	// Why the VM can't start; nil where nothing is in the way.
	classProblem, sizingProblem, addressProblem, macProblem, devicesProblem, provisioningProblem, startProblem *problem
	// mustLeave says why the VM may not stay on its node, and what is done about it;
	// empty where it may.
	mustLeave string
	// awaits is true where nothing is in the way but disks that are made once the
	// VM is placed.
	awaits bool
	// again is when to look next; zero where events will tell.
	again time.Duration
}

// problem is a reason for programs and a sentence for people.
type problem struct{ reason, message string }

func (o *observation) dependenciesReady() bool {
	for _, p := range []*problem{o.classProblem, o.sizingProblem, o.addressProblem, o.macProblem, o.devicesProblem, o.provisioningProblem} {
		if p != nil {
			return false
		}
	}
	return true
}

// startable reports whether the VM can be placed. Its disks may be made only
// then.
func (o *observation) startable() bool {
	others := *o
	if o.awaits {
		others.devicesProblem = nil
	}
	return others.dependenciesReady()
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	o := new(observation)
	r.waiting.remove(resource.KeyOf(vm))
	if err := r.observe(ctx, vm, o); err != nil {
		return reconcile.Result{}, err
	}
	gone, err := r.drive(ctx, vm, o)
	if gone && err == nil {
		r.refused.remove(resource.KeyOf(vm))
		return reconcile.Result{Finalized: true}, nil
	}
	return reconcile.Result{Status: r.status(vm, o), After: o.again}, err
}

// drive does the next step, and reports whether a deleted VM has left.
func (r *Reconciler) drive(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (bool, error) {
	alive := o.sight.State.Alive()
	switch {
	case o.sight.State.ended():
		return false, r.bury(ctx, vm, o)
	case alive && moves(vm, o):
		return false, errors.Join(r.migrate(ctx, vm, o), r.leaving(ctx, vm, o))
	case alive && stopping(vm, o.record):
		return false, r.stop(ctx, vm, o)
	case alive:
		return false, r.tend(ctx, vm, o)
	case o.record.Awaits && r.stands(vm, o):
		return false, r.resume(ctx, vm, o)
	case o.record.Node != "":
		return false, r.lose(ctx, vm, o)
	}
	if deleted(vm) {
		return true, r.leave(ctx, vm)
	}
	if err := r.forgive(ctx, vm, o); err != nil {
		return false, err
	}
	if err := r.settle(ctx, vm, o); err != nil {
		return false, err
	}
	if !wantsOn(vm.GetSpec().GetRunPolicy(), o.record) || !o.startable() {
		return false, nil
	}
	return false, r.start(ctx, vm, o)
}

func deleted(vm *vmv1.VirtualMachine) bool { return vm.GetMetadata().GetDeletionTimestamp() != nil }

// stopping reports whether the present instance is to end. One that was told to
// shut down does, whatever was asked for since: its guest may be half gone.
func stopping(vm *vmv1.VirtualMachine, record *power.Record) bool {
	return deleted(vm) || record.StopSince != nil || record.Restart != "" || !wantsOn(vm.GetSpec().GetRunPolicy(), record)
}

// forgive forgets that the user stopped or started a VM which is AlwaysOff now:
// with another policy it begins anew.
func (r *Reconciler) forgive(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if vm.GetSpec().GetRunPolicy() != vmv1.RunPolicy_AlwaysOff || o.record.On == nil {
		return nil
	}
	o.record.On = nil
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}

// wantsOn says whether a VM should run (guide, "Virtual machine startup policy
// and virtual machine state management"). In maintenance none does.
func wantsOn(policy vmv1.RunPolicy_Value, record *power.Record) bool {
	if record.Maintenance != nil {
		return false
	}
	switch policy {
	case vmv1.RunPolicy_AlwaysOn:
		return true
	case vmv1.RunPolicy_AlwaysOff:
		return false
	case vmv1.RunPolicy_Manual:
		return record.On != nil && *record.On
	default:
		return record.On == nil || *record.On
	}
}

// restartsAfter says whether a VM is started again after its instance ended in
// that state by itself.
func restartsAfter(policy vmv1.RunPolicy_Value, ended State) bool {
	switch policy {
	case vmv1.RunPolicy_AlwaysOn:
		return true
	case vmv1.RunPolicy_AlwaysOnUnlessStoppedManually:
		return ended != Shutdown
	default:
		return false
	}
}

func holderOf(vm *vmv1.VirtualMachine, active bool) *metav1.Holder {
	meta := vm.GetMetadata()
	return &metav1.Holder{
		Kind: vm.GetKind(), Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: active,
	}
}

func problemOf(err error) *problem {
	f := fault.From(err)
	return &problem{reason: f.Reason, message: f.Message}
}
