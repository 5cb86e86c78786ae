package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
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
}

// Pod is what an instance takes of its node. Memory is a quantity as in the spec.
type Pod struct {
	Namespace, VirtualMachine, Name, Node string
	MilliCPU, Cores                       int64
	Memory                                string
}

// reserve has a placed instance counted before it runs. Where nobody can be asked
// it runs all the same: a host that starts again starts its VMs before Kubernetes.
func (r *Reconciler) reserve(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if r.Pods == nil {
		return nil
	}
	meta, spec := vm.GetMetadata(), vm.GetSpec()
	err := r.Pods.Reserve(ctx, Pod{
		Namespace: meta.GetNamespace(), VirtualMachine: meta.GetName(), Name: podName(vm, o.record, o.record.Node), Node: o.record.Node,
		MilliCPU: milliCPUOf(spec), Cores: int64(spec.GetCpu().GetCores()), Memory: spec.GetMemory().GetSize(),
	})
	if fault.Is(err, fault.Exhausted) {
		return err
	}
	return nil
}

func podName(vm *vmv1.VirtualMachine, record *power.Record, node string) string {
	const suffixBytes = 3
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", vm.GetMetadata().GetUid(), record.Instance, node))
	return "d8v-vm-" + vm.GetMetadata().GetName() + "-" + hex.EncodeToString(sum[:suffixBytes])
}
