package endtoend_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestHardware has a VM that boots by UEFI and waits for the Secret from which it
// is set up; then it is a Windows machine with a TPM, and has a part of a core.
// Secure Boot, SATA and e1000 are TestDebianHardware's: the small guest is not
// signed, and its kernel has no drivers for them.
func TestHardware(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()
	u.tells(t, "it waits for its Secret, and boots by UEFI", (*user).testSecret)
	u.tells(t, "its user is the Secret's", (*user).testSecretUser)
	u.tells(t, "a changed Secret awaits a restart and shows nowhere", (*user).testSecretChanges)
	u.tells(t, "as a Windows machine it has a TPM, and a part of a core", (*user).testWindows)
	u.tells(t, "its TPM moves with it", func(u *user) { u.testMovesTPM("linux-vm", "secret") })
	u.tells(t, "nothing is left of it", (*user).testHardwareGoes)
}

func (u *user) testSecret() {
	u.kubectl("apply", "-f", u.example("virtualimage-http.yaml"), "-f", u.example("virtualdisk-from-image.yaml"),
		"-f", u.example("virtualmachine-from-secret.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="ProvisioningReady")].message}`, "Secret cloud-init-example does not exist.")
	u.kubectl("apply", "-f", u.example("secret-cloud-init.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
}

func (u *user) testSecretUser() {
	said := u.inGuest("secret", "id -un; sudo -n ls -d /sys/firmware/efi")
	for _, want := range []string{`\nsecret\r`, `\n/sys/firmware/efi\r`} {
		if !regexp.MustCompile(want).MatchString(said) {
			u.t.Errorf("the guest says %q, want %s", said, want)
		}
	}
}

func (u *user) testSecretChanges() {
	u.kubectl("patch", "secret", "cloud-init-example", "-p", `{"stringData":{"userData":"#cloud-config\n# hunter2\n"}}`)
	u.waitFor("vm/linux-vm", "{.status.restartAwaitingChanges[*].path}", "provisioning.userDataRef")
	told := u.kubectl("get", "vm,events", "-o", "yaml")
	if log, err := exec.Command("grep", "-rl", "hunter2", u.home, "--include=*.log", "--include=*.json").Output(); err == nil {
		u.t.Errorf("the content is in %s", log)
	}
	if strings.Contains(told, "hunter2") {
		u.t.Error("the content is shown")
	}
}

func (u *user) testWindows() {
	u.kubectl("apply", "-f", u.example("secret-cloud-init.yaml"))
	u.kubectl("patch", "vm", "linux-vm", "--type", "merge", "-p",
		`{"spec":{"osType":"Windows","cpu":{"coreFraction":"90%"}}}`)
	u.orlop("restart", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	said := u.inGuest("secret", "echo /sys/class/tpm/*; cat /sys/class/tpm/tpm0/tpm_version_major")
	for _, want := range []string{`\n/sys/class/tpm/tpm0\r`, `\n2\r`} {
		if !regexp.MustCompile(want).MatchString(said) {
			u.t.Errorf("the guest says %q, want %s", said, want)
		}
	}
}

// testMovesTPM has the TPM tell after a migration what the firmware measured into
// it before.
func (u *user) testMovesTPM(vm, name string) {
	u.t.Helper()
	measured := func() string {
		said := u.inGuestOf(vm, name, "cat /sys/class/tpm/tpm0/pcr-sha256/0")
		digest := regexp.MustCompile(`[0-9A-F]{64}`).FindString(said)
		if strings.Trim(digest, "0") == "" {
			u.t.Fatalf("the TPM says %q", said)
		}
		return digest
	}
	before := measured()
	u.orlop("evict", vm, "--wait")
	if after := measured(); after != before {
		u.t.Errorf("after the migration the TPM says %s, before %s", after, before)
	}
}

func (u *user) testHardwareGoes() {
	u.kubectl("delete", "vm/linux-vm", "--timeout", "3m")
	if left, _ := filepath.Glob(filepath.Join(u.home, "vm", "nonvolatile", "*")); len(left) > 0 {
		u.t.Errorf("files are left: %v", left)
	}
}
