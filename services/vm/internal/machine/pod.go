package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/power"
)

// pods names the Pod by which Kubernetes knows the present instance: Services,
// quotas and drains mean Pods. Whoever publishes them makes one of this name.
// Another instance, or another node, is another Pod.
func pods(vm *vmv1.VirtualMachine, o *observation) []*vmv1.VirtualMachinePod {
	if o.record.Node == "" || !o.sight.State.Alive() && !o.record.Awaits {
		return nil
	}
	active := true
	return []*vmv1.VirtualMachinePod{{Name: podName(vm, o.record, o.record.Node), Active: &active}}
}

// Pods are what Kubernetes counts instances by.
type Pods interface {
	// Reserve has the Pod of an instance made that is about to run. Class Exhausted,
	// in Kubernetes' own words, where a quota does not allow it. Idempotent.
	Reserve(ctx context.Context, pod Pod) error
	// MayMove makes nothing, and fails as Reserve does where Kubernetes would not
	// allow a Pod like that of an instance in its place, on another node.
	MayMove(ctx context.Context, pod Pod) error
}

// Pod is what an instance takes of its node. Memory is a quantity as in the spec.
type Pod struct {
	Namespace, VirtualMachine, Name, Node string
	MilliCPU, Cores                       int64
	Memory                                string
	OverheadBytes                         int64
}

// reasonNotStarted is that of an instance that nothing lets run.
const reasonNotStarted = "PodNotStarted"

// reserve has a placed instance counted before it runs. Where nobody can be asked
// it runs all the same: a host that starts again starts its VMs before Kubernetes.
func (r *Reconciler) reserve(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if r.Pods == nil {
		return nil
	}
	err := r.Pods.Reserve(ctx, r.podOf(vm, o, vm.GetSpec()))
	if !fault.Is(err, fault.Exhausted) {
		r.refused.remove(resource.KeyOf(vm))
		return nil
	}
	r.refused.add(resource.KeyOf(vm))
	return fault.Wrap(err, fault.Exhausted, reasonNotStarted, "%s", fault.From(err).Message)
}

// mayMove says what does not allow a VM to be counted on another node; empty where
// nothing does, or nobody can be asked.
func (r *Reconciler) mayMove(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) string {
	if r.Pods == nil {
		return ""
	}
	err := r.Pods.MayMove(ctx, r.podOf(vm, o, o.applied))
	if !fault.Is(err, fault.Exhausted) {
		return ""
	}
	r.refused.add(resource.KeyOf(vm))
	return fault.From(err).Message
}

// isRefused reports whether nothing is known that might let a VM have a Pod that
// was refused one.
func (r *Reconciler) isRefused(vm *vmv1.VirtualMachine) bool {
	return r.refused.has(resource.KeyOf(vm))
}

func (r *Reconciler) podOf(vm *vmv1.VirtualMachine, o *observation, spec *vmv1.VirtualMachineSpec) Pod {
	meta := vm.GetMetadata()
	return Pod{
		Namespace: meta.GetNamespace(), VirtualMachine: meta.GetName(), Name: podName(vm, o.record, o.record.Node), Node: o.record.Node,
		MilliCPU: milliCPUOf(spec), Cores: int64(spec.GetCpu().GetCores()), Memory: spec.GetMemory().GetSize(), OverheadBytes: r.Overhead(spec),
	}
}

// Allowed lists the VMs of a namespace that were refused a Pod, which may be tried
// again: there they are not held back any longer.
func (r *Reconciler) Allowed(namespace string) []resource.Key {
	return r.refused.take(func(key resource.Key) bool { return key.Namespace == namespace })
}

func podName(vm *vmv1.VirtualMachine, record *power.Record, node string) string {
	const suffixBytes = 3
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", vm.GetMetadata().GetUid(), record.Instance, node))
	return "d8v-vm-" + vm.GetMetadata().GetName() + "-" + hex.EncodeToString(sum[:suffixBytes])
}
