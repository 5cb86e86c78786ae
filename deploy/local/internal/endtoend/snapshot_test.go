package endtoend_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSnapshots is the guide's chapter on snapshots, with the quick start's guest.
func TestSnapshots(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.orlop("up", "--allow-image-source", "127.0.0.0/8")
	t.Cleanup(func() {
		if said, err := u.run(exec.Command(u.bin("orlop"), "down", "--guests")); err != nil {
			t.Errorf("orlop down --guests: %v\n%s", err, said)
		}
	})
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")

	u.tells(t, "a disk is frozen under its guest", (*user).testDiskSnapshot)
	u.tells(t, "images are made from a snapshot", (*user).testImagesOfSnapshot)
	u.tells(t, "a VM is restored under new names", (*user).testRestoreBeside)
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

// testRestore also has the VM keep its addresses, of IP and MAC.
func (u *user) testRestore() {
	snapshot, err := os.ReadFile(u.example("virtualmachinesnapshot.yaml"))
	check(u.t, err)
	u.apply(strings.NewReplacer("name: linux-vm-snapshot", "name: linux-vm-kept", "keepIPAddress: Never", "keepIPAddress: Always").Replace(string(snapshot)))
	u.waitFor("vmsnapshot/linux-vm-kept", "{.status.phase}", "Ready")
	u.inGuest("cloud", "echo last > word; sync")
	before := u.addresses()
	conflicting := strings.ReplaceAll(restoreOfSameNames, "NAME", "too-early")
	u.apply(conflicting)
	u.waitFor("vmrestore/too-early", "{.status.phase}", "Failed")
	said := u.kubectl("get", "vmrestore/too-early", "-o", `jsonpath={.status.conditions[?(@.type=="VirtualMachineRestoreReady")].message}`)
	if !strings.Contains(said, "VirtualMachine linux-vm exists") || !strings.Contains(said, "VirtualDisk linux-disk exists") {
		u.t.Errorf("the conflicts are told as %q", said)
	}
	u.kubectl("delete", "vm/linux-vm", "vd/linux-disk")
	u.apply(strings.ReplaceAll(restoreOfSameNames, "NAME", "in-place"))
	u.waitFor("vmrestore/in-place", "{.status.phase}", "Ready")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	if word := u.inGuest("cloud", "cat word"); !strings.Contains(word, "later") {
		u.t.Errorf("the restored guest reads %q", word)
	}
	seen := u.inGuest("cloud", "cat /sys/class/net/eth0/address")
	if after := u.addresses(); after != before || !strings.Contains(seen, strings.Fields(before)[1]) {
		u.t.Errorf("the VM had %q, has %q, and the guest sees %q", before, after, seen)
	}
}

func (u *user) addresses() string {
	return u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.networks[0].ipAddress} {.status.networks[0].macAddress}")
}

const restoreOfSameNames = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineRestore
metadata:
  name: NAME
spec:
  virtualMachineSnapshotName: linux-vm-kept
`
