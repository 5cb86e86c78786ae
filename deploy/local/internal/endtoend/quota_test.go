package endtoend_test

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

const second = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: second}
spec: {persistentVolumeClaim: {size: 64Mi}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachine
metadata: {name: second}
spec:
  terminationGracePeriodSeconds: 0
  cpu: {cores: 1, coreFraction: 20%}
  memory: {size: 256Mi}
  blockDeviceRefs: [{kind: VirtualDisk, name: second}]
`

// testQuota gives the namespace room for the quick start's VM alone.
func (u *user) testQuota() {
	one := u.quantity("vm/linux-vm", "{.status.resources.memory.size}")
	one.Add(u.quantity("vm/linux-vm", "{.status.resources.memory.runtimeOverhead}"))
	u.kubectl("create", "quota", "small", "--hard=requests.memory="+one.String()+",pods=5")
	u.waitFor("quota/small", `{.status.used.requests\.memory}`, one.String())
	u.apply(second)
	u.waitFor("vm/second", `{.status.conditions[?(@.type=="PodStarted")].reason}`, "PodNotStarted")
	said := u.value("vm/second", `{.status.conditions[?(@.type=="Running")].message}`)
	if !strings.Contains(said, "exceeded quota: small") || !strings.Contains(said, "limited: requests.memory="+one.String()) {
		u.t.Errorf("the VM says %q", said)
	}
	u.columns("vm", `(?m)^second +Pending `)
	u.orlop("evict", "linux-vm", "--wait") // which needs no room for two

	u.limitMemory("512Mi")
	u.apply(evictFirst)
	u.waitFor("vmop/leave", `{.status.conditions[?(@.type=="Completed")].reason}`, "QuotaExceeded")
	if phase := u.value("vmop/leave", "{.status.phase}"); phase != "Pending" {
		u.t.Errorf("a migration under a lowered quota is %s", phase)
	}
	u.limitMemory("4Gi")
	u.waitFor("vmop/leave", "{.status.phase}", "Completed")
	u.waitFor("vm/second", "{.status.phase}", "Running")
	u.kubectl("delete", "vm/second", "vd/second", "quota/small", "--timeout", "2m")
	u.kubectl("delete", "vmop", "--all")
}

const evictFirst = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineOperation
metadata: {name: leave}
spec: {virtualMachineName: linux-vm, type: Evict}
`

func (u *user) limitMemory(size string) {
	u.t.Helper()
	u.kubectl("patch", "quota", "small", "-p", fmt.Sprintf(`{"spec":{"hard":{"requests.memory":%q}}}`, size))
	u.waitFor("quota/small", `{.status.hard.requests\.memory}`, size)
}

func (u *user) quantity(object, path string) resource.Quantity {
	u.t.Helper()
	quantity, err := resource.ParseQuantity(u.value(object, path))
	if err != nil {
		u.t.Fatal(err)
	}
	return quantity
}
