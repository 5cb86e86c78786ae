// Package guest_test boots the images that the scripts of this folder build,
// under QEMU, with seeds as a hypervisor makes them.
package guest_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// quickStart is the user-data of the guide's quick start, to the letter. The
// hash is that of "cloud".
const quickStart = `#cloud-config
ssh_pwauth: True
users:
- name: cloud
  passwd: '$6$rounds=4096$saltsalt$fPmUsbjAuA7mnQNTajQM6ClhesyG0.yyQhvahas02ejfMAq1ykBo1RquzS0R6GgdIDlvS.kbUwDablGZKZcTP/'
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  lock_passwd: False
`

const quickStartMeta = "instance-id: i-quick\nlocal-hostname: linux-vm\n"

const prompt = "cloud@linux-vm:~$ "

func TestMicroFollowsTheQuickStart(t *testing.T) {
	for _, test := range []struct {
		name string
		hw   hardware
	}{
		{name: "BIOS in 128 MiB", hw: hardware{memoryMiB: 128}},
		{name: "UEFI in 1 GiB", hw: hardware{memoryMiB: 1024, uefi: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.hw.disk = overlay(t, microImage(t), "2G")
			test.hw.seed = seed(t, map[string]string{"user-data": quickStart, "meta-data": quickStartMeta})
			started := time.Now()
			guest := boot(t, test.hw)
			guest.agent.call(t, "guest-ping", nil)
			t.Logf("agent answers after %s", time.Since(started).Round(100*time.Millisecond))
			checkConsole(t, guest.console)
			checkAgent(t, guest)
			checkSSH(t, guest)
			checkWeb(t, guest)
			guest.powerDown(t)
		})
	}
}

func checkConsole(t *testing.T, console *console) {
	t.Helper()
	console.expect(t, "linux-vm login: ")
	console.send(t, "cloud")
	console.expect(t, "Password: ")
	console.send(t, "cloud")
	console.expect(t, prompt)
	for command, want := range map[string]string{
		"whoami":          "cloud",
		"hostname":        "linux-vm",
		"sudo -n id -u":   "0",
		"echo $SHELL":     "/bin/bash",
		"nproc":           "1",
		"sudo hostname":   "linux-vm",
		"lsblk -dno NAME": "sda",
		"lsblk":           "sda2",
		"ip addr":         "eth0",
	} {
		if got := console.ask(t, command, prompt); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q in it", command, got, want)
		}
	}
}

func checkAgent(t *testing.T, guest *machine) {
	t.Helper()
	var system struct {
		ID         string
		PrettyName string `json:"pretty-name"`
		Kernel     string `json:"kernel-release"`
	}
	decode(t, guest.agent.call(t, "guest-get-osinfo", nil), &system)
	if system.ID != "debian" || !strings.Contains(system.PrettyName, "Orlop micro guest") || system.Kernel == "" {
		t.Errorf("osinfo: got %+v", system)
	}
	size, err := strconv.Atoi(strings.TrimSpace(guest.run(t, "df -m / | awk 'END { print $2 }'")))
	if err != nil || size < 1500 {
		t.Errorf("the root file system did not grow to a 2 GiB disk: %d MiB, %v", size, err)
	}
	if log := guest.run(t, "grep -E 'ERROR|WARN' /var/log/seed.log"); log != "" {
		t.Errorf("the seed reader complained: %s", log)
	}
}

// checkSSH logs in with a password, which ssh takes from a program.
func checkSSH(t *testing.T, guest *machine) {
	t.Helper()
	if got := strings.TrimSpace(ssh(t, guest, "cloud", "cloud", "hostname; sudo -n id -u")); got != "linux-vm\n0" {
		t.Errorf("ssh: got %q", got)
	}
}

func ssh(t *testing.T, guest *machine, user, password, script string) string {
	t.Helper()
	answer := filepath.Join(t.TempDir(), "answer")
	if err := os.WriteFile(answer, []byte("#!/bin/sh\necho '"+password+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "ssh", "-p", strconv.Itoa(guest.sshPort), "-l", user,
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1",
		"-o", "LogLevel=ERROR", "-o", "ConnectTimeout=120", "-F", "none", "127.0.0.1", script)
	command.Env = append(os.Environ(), "SSH_ASKPASS="+answer, "SSH_ASKPASS_REQUIRE=force")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("ssh as %s: %v: %s", user, err, output)
	}
	return string(output)
}

func checkWeb(t *testing.T, guest *machine) {
	t.Helper()
	client := http.Client{Timeout: patience}
	response, err := client.Get("http://127.0.0.1:" + strconv.Itoa(guest.webPort) + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(page), "linux-vm") {
		t.Errorf("http: got %s, %v: %s", response.Status, err, page)
	}
}

const fullUserData = `#cloud-config
password: open sesame
chpasswd: { expire: false, list: ["root:$6$rounds=4096$saltsalt$fPmUsbjAuA7mnQNTajQM6ClhesyG0.yyQhvahas02ejfMAq1ykBo1RquzS0R6GgdIDlvS.kbUwDablGZKZcTP/"] }
ssh_pwauth: true
users:
- default
- name: ann
  groups: [users, pilots]
  uid: 2000
  ssh_authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExample0 ann"]
write_files:
- path: /etc/orlop/greeting
  permissions: '0640'
  owner: root:users
  content: |
    hello
- path: /etc/orlop/packed
  encoding: b64
  content: cGFja2Vk
bootcmd:
- echo boot >>/var/tmp/boots
runcmd:
- echo run >>/var/tmp/runs
- [sh, -c, "date >/var/tmp/finished"]
`

const staticNetwork = `version: 2
ethernets:
  primary:
    match: {macaddress: "52:54:00:12:34:56"}
    addresses: [10.0.2.99/24]
    routes: [{to: default, via: 10.0.2.2}]
    nameservers: {addresses: [10.0.2.3], search: [example.org]}
`

func TestMicroAppliesASeedOnceAnInstance(t *testing.T) {
	disk := overlay(t, microImage(t), "")
	files := map[string]string{
		"meta-data": "instance-id: i-full\nlocal-hostname: full.example.org\n",
		"user-data": fullUserData, "network-config": staticNetwork,
	}
	guest := boot(t, hardware{disk: disk, seed: seed(t, files), memoryMiB: 128})
	guest.awaitFile(t, "/var/tmp/finished")
	for script, want := range map[string]string{
		"hostname":    "full\n",
		"hostname -f": "full.example.org\n",
		"ip -4 -o addr show eth0 | awk '{print $4}'":    "10.0.2.99/24\n",
		"ip route | awk '/^default/{print $3}'":         "10.0.2.2\n",
		"cat /etc/resolv.conf":                          "search example.org\nnameserver 10.0.2.3\n",
		"cat /etc/orlop/greeting /etc/orlop/packed":     "hello\npacked",
		"stat -c %a:%U:%G /etc/orlop/greeting":          "640:root:users\n",
		"id -u ann; id -nG ann":                         "2000\nann users pilots\n",
		"stat -c %a:%U /home/ann/.ssh":                  "700:ann\n",
		"awk -F: '$1 == \"ann\"{print $2}' /etc/shadow": "!\n",
		"cat /var/tmp/runs":                             "run\n",
	} {
		if got := guest.run(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	guest.agent.call(t, "guest-set-user-password", map[string]any{
		"username": "ann", "password": "c2VjcmV0", "crypted": false,
	})
	guest.powerDown(t)

	files["network-config"] = strings.ReplaceAll(staticNetwork, "10.0.2.99", "10.0.2.15")
	guest = boot(t, hardware{disk: disk, seed: seed(t, files), memoryMiB: 128})
	guest.awaitFile(t, "/var/tmp/boots")
	if got := guest.run(t, "cat /var/tmp/boots /var/tmp/runs"); got != strings.Repeat("boot\n", 2)+"run\n" {
		t.Errorf("after the second boot: got %q", got)
	}
	if got := ssh(t, guest, "debian", "open sesame", "sudo -n id -u"); got != "0\n" {
		t.Errorf("the default user: got %q", got)
	}
	if got := ssh(t, guest, "ann", "secret", "id -un"); got != "ann\n" {
		t.Errorf("the password that the agent set: got %q", got)
	}
	guest.powerDown(t)
}

func microImage(t *testing.T) string {
	t.Helper()
	return image(t, "micro", "make guest-micro")
}

// image finds what the scripts built, and QEMU.
func image(t *testing.T, name, remedy string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest: not in short mode")
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "genisoimage", "ssh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: run make setup", tool)
		}
	}
	home := os.Getenv("ORLOP_HOME")
	if home == "" {
		home = "../../.orlop"
	}
	path, err := filepath.Abs(filepath.Join(home, "guest", name+".qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built: run %s", path, remedy)
	}
	return path
}

// overlay gives a disk of the test's own, which stands on the image.
func overlay(t *testing.T, base, size string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	arguments := []string{"create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path}
	if size != "" {
		arguments = append(arguments, size)
	}
	if output, err := exec.Command("qemu-img", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, output)
	}
	return path
}

// seed makes the disk that a hypervisor would attach.
func seed(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "seed.iso")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	output, err := exec.Command("genisoimage", "-quiet", "-o", path, "-V", "cidata", "-J", "-r", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("genisoimage: %v: %s", err, output)
	}
	return path
}
