package machine

import (
	"context"
	"slices"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
	"orlop.dev/services/vm/internal/relocation"
)

// Relocations makes VMs leave their nodes.
type Relocations interface {
	// Move makes a VM leave its node, unless something moves it already, or can't.
	// Idempotent.
	Move(ctx context.Context, vm *vmv1.VirtualMachine, record *power.Record, cause relocation.Cause) (relocation.Outcome, error)
}

// relocate moves a VM whose node no longer fits, or whose QEMU is an old one.
func (r *Reconciler) relocate(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if r.Relocations == nil || o.sight.State != Running {
		return nil
	}
	cause, reason, err := r.cause(ctx, vm, o)
	if err != nil || reason == "" {
		return err
	}
	outcome, err := r.Relocations.Move(ctx, vm, o.record, cause)
	if err != nil {
		return err
	}
	if cause.Why != relocation.Firmware {
		o.mustLeave = reason + ". " + outcome.Message
	}
	if outcome.After > 0 {
		o.again = outcome.After
	}
	return nil
}

// leaving says of a VM that is moved why it has to be.
func (r *Reconciler) leaving(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	cause, reason, err := r.cause(ctx, vm, o)
	if err == nil && reason != "" && cause.Why != relocation.Firmware {
		o.mustLeave = reason + "."
	}
	return err
}

// cause is why a VM has to move; the reason is empty where it has not.
func (r *Reconciler) cause(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (relocation.Cause, string, error) {
	guest, err := r.Survey.Guest(vm, o.record)
	if err != nil {
		return relocation.Cause{}, "", err
	}
	nodes, err := r.Survey.Nodes(ctx)
	if err != nil {
		return relocation.Cause{}, "", err
	}
	at := slices.IndexFunc(nodes, func(n node.Node) bool { return n.Name == o.record.Node })
	if at < 0 {
		return relocation.Cause{}, "", nil
	}
	here := nodes[at]
	spec := vm.GetSpec()
	if reason := placement.Unwanted(guest, here); reason != "" {
		return relocation.NodePlacement.Of(
			here.Name, here.AllLabels(), spec.GetNodeSelector(), spec.GetAffinity().GetNodeAffinity().String(),
			o.class.GetSpec().GetNodeSelector().String(),
		), here.Name + " " + reason, nil
	}
	if reason := placement.Stay(guest, here); reason != "" {
		return relocation.Evacuation.Of(here.Name), here.Name + " " + reason, nil
	}
	if outdated(o.sight) && !r.KeepOldQEMU {
		return relocation.Firmware.Of(o.sight.InstalledQEMU), "QEMU " + o.sight.QEMU + " runs the VM", nil
	}
	return relocation.Cause{}, "", nil
}

// outdated reports whether a guest runs on another QEMU than the installed one.
func outdated(sight Sight) bool { return sight.State.Alive() && sight.InstalledQEMU != sight.QEMU }
