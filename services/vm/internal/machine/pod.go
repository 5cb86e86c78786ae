package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/power"
)

// pods names the Pod by which Kubernetes knows the present instance: Services,
// quotas and drains mean Pods. Whoever publishes them makes one of this name.
// Another instance, or another node, is another Pod.
func pods(vm *vmv1.VirtualMachine, o *observation) []*vmv1.VirtualMachinePod {
	if !o.sight.State.Alive() || o.record.Node == "" {
		return nil
	}
	active := true
	return []*vmv1.VirtualMachinePod{{Name: podName(vm, o.record, o.record.Node), Active: &active}}
}

func podName(vm *vmv1.VirtualMachine, record *power.Record, node string) string {
	const suffixBytes = 3
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s", vm.GetMetadata().GetUid(), record.Instance, node))
	return "d8v-vm-" + vm.GetMetadata().GetName() + "-" + hex.EncodeToString(sum[:suffixBytes])
}
