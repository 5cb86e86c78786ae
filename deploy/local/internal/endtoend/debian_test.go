package endtoend_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const debianMachine = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata: {name: debian}
spec:
  storage: ContainerRegistry
  dataSource: {type: HTTP, http: {url: "http://127.0.0.1:18480/debian.qcow2"}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: debian}
spec:
  dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: debian}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachine
metadata: {name: debian}
spec:
  runPolicy: AlwaysOn
  bootloader: EFIWithSecureBoot
  osType: Windows
  enableParavirtualization: false
  cpu: {cores: 2}
  memory: {size: 1Gi}
  provisioning:
    type: UserData
    userData: |
      #cloud-config
      ssh_pwauth: true
      users:
      - name: cloud
        passwd: '$6$rounds=4096$saltsalt$fPmUsbjAuA7mnQNTajQM6ClhesyG0.yyQhvahas02ejfMAq1ykBo1RquzS0R6GgdIDlvS.kbUwDablGZKZcTP/'
        shell: /bin/bash
        sudo: ALL=(ALL) NOPASSWD:ALL
        lock_passwd: False
        ssh_authorized_keys: [KEY]
  blockDeviceRefs: [{kind: VirtualDisk, name: debian}]
`

// TestDebianHardware has Debian on a machine as Windows wants one, which its
// kernel for all machines tells of: Secure Boot, a TPM, SATA disks, an e1000.
func TestDebianHardware(t *testing.T) {
	u := newUser(t)
	image := filepath.Join(u.root, ".orlop", "guest", "debian.qcow2")
	if _, err := os.Stat(image); err != nil {
		t.Skip("there is no Debian guest: make guest-debian builds it")
	}
	u.serveImage()
	u.up()
	key := filepath.Join(t.TempDir(), "key")
	u.mustRun(exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key))
	public, err := os.ReadFile(key + ".pub")
	check(t, err)
	u.apply(strings.ReplaceAll(debianMachine, "KEY", strings.TrimSpace(string(public))))
	u.waitFor("vm/debian", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	u.inGuestOf("debian", "cloud", "cloud-init status --wait") // it has its say at the console, and sshd waits for it
	said := u.inGuestOf("debian", "cloud", strings.Join([]string{
		"od -An -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-*",
		"sudo -n dmesg | grep -i 'secure boot enabled'",
		"cat /sys/class/tpm/tpm0/tpm_version_major",
		"lsblk -dno NAME,TRAN",
		"basename $(readlink /sys/class/net/e*/device/driver)",
		"hostname",
	}, "; "))
	for _, want := range []string{`\r +1\r`, `(?i)secure boot enabled`, `\n2\r`, `\nsda +sata\r`, `\ne1000\r`, `\ndebian\r`} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("the guest says %q, want %s", said, want)
		}
	}
	u.testGroups(key)
	u.testMovesTPM("debian", "cloud")
	u.kubectl("delete", "vm/debian", "vd/debian", "vi/debian", "--timeout", "3m")
}

// testGroups has the processor time of processes limited where control groups are
// of version 2, as Debian has them by itself.
func (u *user) testGroups(key string) {
	u.t.Helper()
	test := filepath.Join(u.t.TempDir(), "cgroup.test")
	build := exec.Command("go", "test", "-c", "-o", test, "./services/vm/internal/cgroup")
	build.Dir = u.root
	u.mustRun(build)
	u.orlop("scp", "-i", key, test, "cloud@debian:cgroup.test")
	said := u.inGuestOf("debian", "cloud", "stat -fc %T /sys/fs/cgroup; sudo ./cgroup.test -test.v")
	if !strings.Contains(said, "cgroup2fs") || !strings.Contains(said, "--- PASS: TestAProcessIsLimitedAndItsGroupGoes") {
		u.t.Errorf("the guest says %q", said)
	}
}
