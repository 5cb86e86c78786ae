package endtoend_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// write writes as a database does, until stop: what it is going to do, and then
// that.
const (
	write = "rm -f stop; setsid sh -c 'i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i > journal; sync; echo $i > data; sync; done' >/dev/null 2>&1 & until [ -s data ]; do usleep 10000; done"
	stop  = "touch stop; sync"
)

// inOrder is what the guest answers, not what it was asked.
var inOrder = regexp.MustCompile(`order \d+ \d+ recoveries \d+`)

// testWriter takes snapshots of a disk under a guest that writes, with its file
// systems at rest and without, and reads them in copies of the VM.
func (u *user) testWriter() {
	u.inGuest("cloud", write)
	u.apply(snapshotOf("rested", true))
	u.waitFor("vdsnapshot/rested", "{.status.consistent}", "true")
	// An agent that hangs: nothing can be brought to rest.
	u.inGuest("cloud", "sudo killall -STOP qemu-ga")
	u.apply(snapshotOf("torn", false))
	u.waitFor("vdsnapshot/torn", "{.status.phase}", "Ready")
	if said := u.kubectl("get", "vdsnapshot/torn", "-o", "jsonpath={.status.consistent}"); said != "" {
		u.t.Errorf("a snapshot under a guest that writes is consistent: %s", said)
	}
	u.inGuest("cloud", "sudo killall -CONT qemu-ga; "+stop)
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	for name, recovered := range map[string]bool{"rested": false, "torn": true} {
		u.wantInOrder(name, recovered)
	}
	u.kubectl("delete", "vdsnapshot/rested", "vdsnapshot/torn")
}

func snapshotOf(name string, required bool) string {
	return fmt.Sprintf(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDiskSnapshot
metadata: {name: %s}
spec: {virtualDiskName: linux-disk, requiredConsistency: %t}
`, name, required)
}

// wantInOrder attaches a snapshot as a disk and looks at it with the guest's own
// kernel: whether its journal has something to recover, and what the writer wrote.
func (u *user) wantInOrder(name string, recovered bool) {
	u.apply(fmt.Sprintf(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: %[1]s}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: VirtualDiskSnapshot, name: %[1]s}}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineBlockDeviceAttachment
metadata: {name: %[1]s}
spec: {virtualMachineName: linux-vm, blockDeviceRef: {kind: VirtualDisk, name: %[1]s}}
`, name))
	u.waitFor("vmbda/"+name, "{.status.phase}", "Attached")
	said := u.inGuest("cloud", "until [ -b /dev/sdb2 ]; do usleep 100000; done; sudo dmesg -c >/dev/null; sudo mount /dev/sdb2 /mnt && "+
		"echo \"order $(cat /mnt/home/cloud/journal) $(cat /mnt/home/cloud/data) recoveries $(sudo dmesg | grep -c 'recovery complete')\"; sudo umount /mnt")
	var journal, data, recoveries int
	if _, err := fmt.Sscanf(inOrder.FindString(said), "order %d %d recoveries %d", &journal, &data, &recoveries); err != nil {
		u.t.Fatalf("%s: the guest says %q: %v", name, said, err)
	}
	if data != journal && data != journal-1 || (recoveries > 0) != recovered {
		u.t.Errorf("%s: the journal says %d, the data %d, after %d recoveries", name, journal, data, recoveries)
	}
	u.kubectl("delete", "vmbda/"+name, "vd/"+name)
}

// testManySnapshots takes twenty snapshots of one disk, while its guest writes.
func (u *user) testManySnapshots() {
	before := u.diskBytes()
	u.inGuest("cloud", write)
	var all strings.Builder
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("many-%d", i)
		all.WriteString(snapshotOf(name, false) + "---\n")
		names = append(names, "vdsnapshot/"+name)
	}
	u.apply(all.String())
	for _, name := range names {
		u.waitFor(name, "{.status.phase}", "Ready")
	}
	u.inGuest("cloud", stop)
	if grown := u.diskBytes() - before; grown > 200<<20 {
		u.t.Errorf("twenty snapshots take %d MiB", grown>>20)
	}
	u.kubectl(append([]string{"delete"}, names...)...)
	u.until("the space of deleted snapshots comes back", func() (string, bool) {
		grown := u.diskBytes() - before
		return fmt.Sprintf("%d MiB more than before", grown>>20), grown < 40<<20
	})
	u.inGuest("cloud", "cat data")
}

// diskBytes is what all disks and snapshots take together.
func (u *user) diskBytes() int64 {
	var said struct{ DiskBytes map[string]int64 }
	check(u.t, json.Unmarshal([]byte(u.orlop("status", "-o", "json")), &said))
	bytes, told := said.DiskBytes["disks"]
	if !told {
		u.t.Fatal("orlop status says nothing of disks")
	}
	return bytes
}
