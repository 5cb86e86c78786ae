package endtoend_test

import "strings"

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
	u.kubectl("create", "quota", "small", "--hard=requests.memory=1200Mi,pods=5")
	u.waitFor("quota/small", `{.status.used.requests\.memory}`, "1Gi")
	u.apply(second)
	said := u.value("vm/second", `{.status.conditions[?(@.reason=="QuotaExceeded")].message}`)
	if !strings.Contains(said, "exceeded quota: small") || !strings.Contains(said, "limited: requests.memory=1200Mi") {
		u.t.Errorf("the VM says %q", said)
	}
	u.columns("vm", `(?m)^second +Pending `)
	u.orlop("evict", "linux-vm", "--wait") // which needs no room for two
	u.kubectl("patch", "quota", "small", "-p", `{"spec":{"hard":{"requests.memory":"2Gi"}}}`)
	u.waitFor("vm/second", "{.status.phase}", "Running")
	u.waitFor("quota/small", `{.status.used.requests\.memory}`, "1280Mi")
	u.kubectl("delete", "vm/second", "vd/second", "quota/small", "--timeout", "2m")
	u.kubectl("delete", "vmop", "--all")
}
