package endtoend_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSnapshots is the guide's chapter on snapshots, with the quick start's guest.
func TestSnapshots(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")

	u.tells(t, "a disk is frozen under its guest", (*user).testDiskSnapshot)
	u.tells(t, "images are made from a snapshot", (*user).testImagesOfSnapshot)
	u.tells(t, "a VM is restored under new names", (*user).testRestoreBeside)
	u.tells(t, "what a guest writes stays in its order", (*user).testWriter)
	u.tells(t, "twenty snapshots cost what was written between them", (*user).testManySnapshots)
	u.tells(t, "a VM is put back in place", (*user).testPutBack)
	u.tells(t, "a VM is put back to the very instant", (*user).testMemory)
	u.tells(t, "a VM is copied while it runs", (*user).testClone)
	u.tells(t, "a VM is restored under its own names", (*user).testRestore)
}

func (u *user) testDiskSnapshot() {
	if said := u.kubectl("get", "volumesnapshotclasses"); !strings.Contains(said, "DELETIONPOLICY") || !strings.Contains(said, "local.orlop.dev") {
		u.t.Errorf("classes are %s", said)
	}
	u.inGuest("cloud", "echo before > word; sync")
	u.kubectl("apply", "-f", u.example("virtualdisksnapshot.yaml"))
	u.waitFor("vdsnapshot/linux-disk-snapshot", "{.status.phase}", "Ready")
	u.waitFor("vdsnapshot/linux-disk-snapshot", "{.status.consistent}", "true")
	u.inGuest("cloud", "echo after > word") // the freeze writes it
	u.kubectl("apply", "-f", u.example("virtualdisk-from-snapshot.yaml"))
	u.waitFor("vd/linux-disk-restored", "{.status.phase}", "Ready")
}

// testImagesOfSnapshot makes an image of each storage, and a disk from one of them:
// it is what the snapshot is.
func (u *user) testImagesOfSnapshot() {
	image, err := os.ReadFile(u.example("virtualimage-from-snapshot.yaml"))
	check(u.t, err)
	u.apply(string(image))
	u.apply(strings.NewReplacer("name: linux-vm-root", "name: on-volume", "ContainerRegistry", "PersistentVolumeClaim").Replace(string(image)))
	for _, name := range []string{"linux-vm-root", "on-volume"} {
		u.waitFor("vi/"+name, "{.status.phase}", "Ready")
	}
	u.apply(diskFromImage)
	u.waitFor("vd/of-image", "{.status.phase}", "Ready")
	digest := func(object string) string {
		said := u.orlop("download", object, "--format", "raw", "--force", "-o", filepath.Join(u.t.TempDir(), "disk.raw"))
		_, sum, _ := strings.Cut(said, "sha256 ")
		return strings.TrimSpace(sum)
	}
	ofSnapshot, ofDisk := digest("vdsnapshot/linux-disk-snapshot"), digest("vd/of-image")
	if ofSnapshot == "" || ofSnapshot != ofDisk {
		u.t.Errorf("the snapshot is %q, the disk of its image %q", ofSnapshot, ofDisk)
	}
	u.kubectl("delete", "vd/of-image", "vi/linux-vm-root", "vi/on-volume")
}

const diskFromImage = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata:
  name: of-image
spec:
  dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: linux-vm-root}}
`

func (u *user) testRestoreBeside() {
	u.kubectl("apply", "-f", u.example("virtualmachinesnapshot.yaml"))
	u.waitFor("vmsnapshot/linux-vm-snapshot", "{.status.phase}", "Ready")
	u.inGuest("cloud", "echo later > word; sync")
	u.kubectl("apply", "-f", u.example("virtualmachinerestore.yaml"))
	u.waitFor("vmrestore/linux-vm-restore", "{.status.phase}", "Ready")
	u.waitFor("vm/linux-vm-2", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	u.kubectl("delete", "vm/linux-vm-2", "vd/linux-disk-2")
}

// testPutBack is told first what would be done, then has it done by an operation, in
// whose middle the daemon is killed, and by a restore.
func (u *user) testPutBack() {
	restore, err := os.ReadFile(u.example("virtualmachineoperation-restore.yaml"))
	check(u.t, err)
	named := strings.NewReplacer("generateName: restore-linux-vm-", "name: put-back")
	try := strings.NewReplacer("generateName: restore-linux-vm-", "name: try", "Strict", "DryRun")
	u.apply(try.Replace(string(restore)))
	u.waitFor("vmop/try", "{.status.phase}", "Completed")
	if said := u.kubectl("get", "vmop/try", "-o", "jsonpath={.status.resources[*].message}"); !strings.Contains(said, "It would be put back.") {
		u.t.Errorf("a dry run says %q", said)
	}
	u.kubectl("label", "vm/linux-vm", "since=then")
	u.apply(named.Replace(string(restore)))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="Maintenance")].status}`, "True")
	u.killDaemon()
	u.starts()
	u.waitFor("vmop/put-back", "{.status.phase}", "Completed")
	u.wantWord("linux-vm", "after")
	if said := u.kubectl("get", "vm/linux-vm", "-o", "jsonpath={.metadata.labels}"); strings.Contains(said, "since") {
		u.t.Errorf("the labels are %s", said)
	}
	u.inGuest("cloud", "echo later > word; sync")
	u.apply(strings.ReplaceAll(restoreOfSameNames, "NAME", "forced") + "  restoreMode: Forced\n")
	u.waitFor("vmrestore/forced", "{.status.phase}", "Ready")
	u.wantWord("linux-vm", "after")
}

// testMemory keeps what is nowhere but in the guest's memory, and who runs it.
func (u *user) testMemory() {
	const instant = "cat /proc/sys/kernel/random/boot_id /dev/shm/word"
	u.inGuest("cloud", "echo after > /dev/shm/word")
	before := u.inGuest("cloud", instant)
	u.kubectl("apply", "-f", u.example("virtualmachinesnapshot-memory.yaml"))
	u.waitFor("vmsnapshot/linux-vm-instant", "{.status.phase}", "Ready")
	if said := u.kubectl("get", "vmsnapshot/linux-vm-instant", "-o", "jsonpath=at rest {.status.consistent}, memory {.status.includesMemory}"); said != "at rest true, memory true" {
		u.t.Errorf("the snapshot is: %s", said)
	}
	u.inGuest("cloud", "echo later > /dev/shm/word; echo later > word; sync")
	u.apply(strings.NewReplacer("NAME", "instant", "linux-vm-snapshot", "linux-vm-instant").Replace(restoreOfSameNames) + "  restoreMode: Forced\n")
	u.waitFor("vmrestore/instant", "{.status.phase}", "Ready")
	u.wantWord("linux-vm", "after")
	if after := u.inGuest("cloud", instant); after != before {
		u.t.Errorf("the guest was %s and is %s", before, after)
	}
	u.inGuest("cloud", "echo after > word; sync") // its file systems are thawed
	u.until("the guest's clock is the host's", func() (string, bool) {
		asked := time.Now().Unix() - 1 // whole seconds
		said := u.inGuest("cloud", "date +clock=%s")
		clock := regexp.MustCompile(`clock=(\d+)\r`).FindStringSubmatch(said)
		if clock == nil {
			return said, false
		}
		seconds, err := strconv.ParseInt(clock[1], 10, 64)
		return said, err == nil && seconds >= asked
	})
	u.kubectl("delete", "vmrestore/instant", "vmsnapshot/linux-vm-instant")
}

// wantWord waits for a guest, which has been started anew, and reads its file.
func (u *user) wantWord(vm, want string) {
	u.t.Helper()
	u.waitFor("vm/"+vm, "{.status.phase}", "Running")
	u.waitFor("vm/"+vm, `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	if word := u.inGuestOf(vm, "cloud", "cat word"); !strings.Contains(word, want) {
		u.t.Errorf("the guest of %s reads %q, want %s", vm, word, want)
	}
}

func (u *user) testClone() {
	clone, err := os.ReadFile(u.example("virtualmachineoperation-clone.yaml"))
	check(u.t, err)
	u.apply(strings.Replace(string(clone), "generateName: clone-linux-vm-", "name: copy", 1))
	u.waitFor("vmop/copy", "{.status.phase}", "Completed")
	u.wantWord("copy-linux-vm", "after")
	u.kubectl("wait", "--for=delete", "--timeout=60s", "vmsop", "--all")
	if said := u.kubectl("get", "vmsnapshot", "-o", "name"); strings.Contains(said, "vmop-clone") {
		u.t.Errorf("snapshots are %s", said)
	}
	u.kubectl("delete", "vm/copy-linux-vm", "vd/copy-linux-disk")
}

// testRestore also has the VM keep its addresses, of IP and MAC.
func (u *user) testRestore() {
	snapshot, err := os.ReadFile(u.example("virtualmachinesnapshot.yaml"))
	check(u.t, err)
	u.apply(strings.NewReplacer("name: linux-vm-snapshot", "name: linux-vm-kept", "keepIPAddress: Never", "keepIPAddress: Always").Replace(string(snapshot)))
	u.waitFor("vmsnapshot/linux-vm-kept", "{.status.phase}", "Ready")
	u.inGuest("cloud", "echo last > word; sync")
	before := u.addresses()
	kept := strings.Replace(restoreOfSameNames, "linux-vm-snapshot", "linux-vm-kept", 1)
	u.apply(strings.ReplaceAll(kept, "NAME", "too-early"))
	u.waitFor("vmrestore/too-early", "{.status.phase}", "Failed")
	said := u.kubectl("get", "vmrestore/too-early", "-o", `jsonpath={.status.conditions[?(@.type=="VirtualMachineRestoreReady")].message}`)
	if !strings.Contains(said, "VirtualMachine linux-vm exists") || !strings.Contains(said, "VirtualDisk linux-disk exists") {
		u.t.Errorf("the conflicts are told as %q", said)
	}
	u.kubectl("delete", "vm/linux-vm", "vd/linux-disk")
	u.apply(strings.ReplaceAll(kept, "NAME", "in-place"))
	u.waitFor("vmrestore/in-place", "{.status.phase}", "Ready")
	u.wantWord("linux-vm", "after")
	seen := u.inGuest("cloud", "cat /sys/class/net/eth0/address")
	if after := u.addresses(); after != before || !strings.Contains(seen, strings.Fields(before)[1]) {
		u.t.Errorf("the VM had %q, has %q, and the guest sees %q", before, after, seen)
	}
}

// addresses are the VM's, of IP and MAC.
func (u *user) addresses() string {
	return u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.networks[0].ipAddress} {.status.networks[0].macAddress}")
}

const restoreOfSameNames = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineRestore
metadata:
  name: NAME
spec:
  virtualMachineSnapshotName: linux-vm-snapshot
`
