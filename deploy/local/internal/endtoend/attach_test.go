package endtoend_test

import (
	"os/exec"
	"path/filepath"
	"strings"
)

const attachment = "vmbda/attach-blank-disk"

// testAttach gives the VM a disk while it runs (guide, "Dynamic Block Devices").
func (u *user) testAttach() {
	for _, example := range []string{"virtualdisk-blank.yaml", "virtualmachineblockdeviceattachment.yaml"} {
		u.kubectl("apply", "-f", filepath.Join(u.root, "examples", example))
	}
	u.waitFor(attachment, "{.status.phase}", "Attached")
	u.waitFor("vm/linux-vm", `{.status.blockDeviceRefs[?(@.name=="blank-disk")].target}`, "sdb")
	console := u.login()
	defer console.close()
	wantSize(console, 100)
	console.send("exit\n")
	said, err := u.run(exec.Command(u.bin("kubectl"), "patch", "vm", "linux-vm", "--type", "json", "-p",
		`[{"op":"add","path":"/spec/blockDeviceRefs/-","value":{"kind":"VirtualDisk","name":"blank-disk"}}]`))
	if err == nil || !strings.Contains(said, "attach-blank-disk") {
		u.t.Errorf("a disk is in one VM twice: %v, %s", err, said)
	}
}

// testDetach finds the disk in the VM's next instance, and takes it away under a
// daemon that dies.
func (u *user) testDetach() {
	u.waitFor(attachment, "{.status.phase}", "Attached")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	before := u.login()
	wantSize(before, 100)
	before.send("exit\n")
	before.close()
	u.kubectl("delete", attachment, "--wait=false")
	u.killDaemon()
	u.starts()
	u.kubectl("wait", attachment, "--for=delete", "--timeout", deadline.String())
	console := u.login()
	defer console.close()
	if said, has := hasSize(console, 100); has {
		u.t.Errorf("the guest has the disk still: %s", said)
	}
	console.send("exit\n")
	u.kubectl("delete", "vd", "blank-disk", "--timeout", deadline.String())
}
