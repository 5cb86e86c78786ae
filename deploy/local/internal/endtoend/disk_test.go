package endtoend_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// firstConsumers are the quick start's disk, made on the node of its VM, and a
// second one beside it.
const firstConsumers = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata:
  name: linux-disk
spec:
  persistentVolumeClaim:
    storageClassName: local-wffc
  dataSource:
    type: HTTP
    http:
      url: "http://` + imageAddress + `/micro.qcow2"
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata:
  name: data
spec:
  persistentVolumeClaim:
    storageClassName: local-wffc
    size: 100Mi
`

// TestDisks is the guide's chapter on disks, as far as it needs a guest.
func TestDisks(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()
	u.apply(firstConsumers)
	for _, disk := range []string{"vd/linux-disk", "vd/data"} {
		u.waitFor(disk, "{.status.phase}", "WaitForFirstConsumer")
	}
	u.apply(u.machineWithTwoDisks())
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")

	u.tells(t, "a disk grows under its guest", (*user).testGrowth)
	u.tells(t, "a killed daemon finishes what it began", (*user).testKilledGrowth)
	u.tells(t, "a disk that is in use is deleted when its VM lets go", (*user).testHeldDisk)
}

// machineWithTwoDisks is the quick start's VM.
func (u *user) machineWithTwoDisks() string {
	content, err := os.ReadFile(filepath.Join(u.root, "examples", "quickstart.yaml"))
	check(u.t, err)
	documents := strings.Split(string(content), "\n---\n")
	return strings.TrimRight(documents[len(documents)-1], "\n") + "\n    - kind: VirtualDisk\n      name: data\n"
}

func (u *user) apply(manifest string) {
	u.t.Helper()
	command := exec.Command(u.bin("kubectl"), "apply", "-f", "-")
	command.Stdin = strings.NewReader(manifest)
	u.mustRun(command)
}

func (u *user) testGrowth() {
	console := u.login()
	defer console.close()
	wantSize(console, 100)
	u.grow("200Mi")
	u.waitFor("vd/data", "{.status.capacity}", "200Mi")
	u.waitFor("vd/data", "{.status.phase}", "Ready")
	wantSize(console, 200)
	console.send("exit\n")
	said, err := u.run(exec.Command(u.bin("kubectl"), patchSize("100Mi")...))
	if err == nil || !strings.Contains(said, "can't be made smaller") {
		u.t.Errorf("a disk is made smaller: %v, %s", err, said)
	}
}

func (u *user) testKilledGrowth() {
	u.grow("320Mi")
	u.killDaemon()
	u.starts()
	u.waitFor("vd/data", "{.status.capacity}", "320Mi")
	u.waitFor("vd/data", "{.status.phase}", "Ready")
	console := u.login()
	defer console.close()
	wantSize(console, 320)
	console.send("exit\n")
}

func (u *user) testHeldDisk() {
	u.kubectl("delete", "vd", "data", "--wait=false")
	u.waitFor("vd/data", "{.status.phase}", "Terminating")
	u.waitFor("vd/data", `{.status.conditions[?(@.type=="InUse")].message}`,
		"VirtualMachine linux-vm uses the disk, which is deleted when it lets go.")
	u.kubectl("delete", "vm", "linux-vm")
	u.kubectl("wait", "vd/data", "--for=delete", "--timeout", deadline.String())
}

func (u *user) grow(size string) { u.t.Helper(); u.kubectl(patchSize(size)...) }

func patchSize(size string) []string {
	return []string{"patch", "vd", "data", "--type", "merge", "-p", `{"spec":{"persistentVolumeClaim":{"size":"` + size + `"}}}`}
}

// login is at the prompt of the quick start's user.
func (u *user) login() *console { return u.loginAs("cloud") }

// loginAs logs somebody in whose password is cloud.
func (u *user) loginAs(name string) *console { return u.loginTo("linux-vm", name) }

func (u *user) loginTo(vm, name string) *console {
	u.t.Helper()
	c := u.openConsoleOf(vm)
	c.knock()
	c.send(name + "\n")
	c.expect("Password: ")
	c.send("cloud\n")
	c.expect(promptOf(vm, name))
	return c
}

// inGuest runs a command as somebody whose password is cloud, and gives what was
// printed.
func (u *user) inGuest(name, command string) string { return u.inGuestOf("linux-vm", name, command) }

func (u *user) inGuestOf(vm, name, command string) string {
	u.t.Helper()
	c := u.loginTo(vm, name)
	defer c.close()
	c.send(command + "\n")
	said := c.expect(promptOf(vm, name))
	c.send("exit\n")
	return said
}

// example is the path of an example.
func (u *user) example(name string) string { return filepath.Join(u.root, "examples", name) }

var prompt = promptOf("linux-vm", "cloud")

func promptOf(vm, name string) string { return name + "@" + vm + ":~$ " }

// wantSize demands that the guest has a disk of that size. At boot its kernel looks
// at disks side by side: which name which of them gets is not certain.
func wantSize(c *console, mebibytes int) {
	c.t.Helper()
	if said, has := hasSize(c, mebibytes); !has {
		c.t.Errorf("the guest sees %q, not %d MiB", said, mebibytes)
	}
}

func hasSize(c *console, mebibytes int) (said string, has bool) {
	c.t.Helper()
	c.send("lsblk -bdno SIZE\n")
	said = c.expect(prompt)
	return said, strings.Contains(said, fmt.Sprintf("\n%d\r", mebibytes<<20))
}
