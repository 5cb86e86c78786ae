// Package machine has the rules of a VirtualMachine: what it waits for, when it
// runs, what its status says.
//
// It must not know how a guest is run (an Engine does), nor what disks, images
// and addresses are beyond their being ready and claimable.
package machine

import (
	"context"
	"sync"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/services/vm/internal/node"
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
	Addresses Addresses
	Engine    Engine
	Power     *power.Store
	Nodes     []node.Node
	Now       func() time.Time

	// placing makes choosing a node and writing it down one step.
	placing sync.Mutex
}

// observation is what one look at a VM found, and all that its status is made
// from.
type observation struct {
	record  *power.Record
	class   *vmv1.VirtualMachineClass
	address *networkv1.VirtualMachineIPAddress
	devices []DeviceState // as in spec.blockDeviceRefs
	sight   Sight
	changes []change

	// Why the VM can't start; nil where nothing is in the way.
	classProblem, sizingProblem, addressProblem, devicesProblem, provisioningProblem, startProblem *problem
	// again is when to look next; zero where events will tell.
	again time.Duration
}

// problem is a reason for programs and a sentence for people.
type problem struct{ reason, message string }

func (o *observation) dependenciesReady() bool {
	for _, p := range []*problem{o.classProblem, o.sizingProblem, o.addressProblem, o.devicesProblem, o.provisioningProblem} {
		if p != nil {
			return false
		}
	}
	return true
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, vm *vmv1.VirtualMachine) (reconcile.Result, error) {
	o := new(observation)
	if err := r.observe(ctx, vm, o); err != nil {
		return reconcile.Result{}, err
	}
	finalized, err := r.drive(ctx, vm, o)
	if finalized {
		return reconcile.Result{Finalized: true}, nil
	}
	return reconcile.Result{Status: r.status(vm, o), After: o.again}, err
}

// drive does the next step, and reports whether the VM is gone for good.
func (r *Reconciler) drive(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (bool, error) {
	deleting := vm.GetMetadata().GetDeletionTimestamp() != nil
	wanted := !deleting && wantsOn(vm.GetSpec().GetRunPolicy(), o.record)
	switch {
	case o.sight.State == Shutdown, o.sight.State == Panicked, o.sight.State == Crashed:
		return false, r.bury(ctx, vm, o)
	case o.sight.State.Alive() && (!wanted || o.record.Restart != ""):
		return false, r.stop(ctx, vm, o)
	case o.sight.State.Alive():
		return false, r.tend(ctx, vm, o)
	case deleting:
		return true, r.leave(ctx, vm, o)
	case o.record.Node != "":
		// The record was written and the instance never came, or went with all
		// traces: as if it had not been started.
		return false, r.forget(ctx, vm, o)
	}
	if err := r.settle(ctx, vm, o); err != nil {
		return false, err
	}
	if !wanted || !o.dependenciesReady() {
		return false, nil
	}
	return false, r.start(ctx, vm, o)
}

// wantsOn says whether a VM should run (guide, "Virtual machine startup policy
// and virtual machine state management").
func wantsOn(policy vmv1.RunPolicy_Value, record *power.Record) bool {
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
