package guest_test

import (
	"strings"
	"testing"
	"time"
)

const debianUserData = `#cloud-config
ssh_pwauth: true
users:
- name: cloud
  passwd: '$6$rounds=4096$saltsalt$fPmUsbjAuA7mnQNTajQM6ClhesyG0.yyQhvahas02ejfMAq1ykBo1RquzS0R6GgdIDlvS.kbUwDablGZKZcTP/'
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  lock_passwd: False
runcmd:
- echo linux-vm >/var/www/html/index.html
`

func TestDebianRunsTheRealCloudInit(t *testing.T) {
	disk := overlay(t, image(t, "debian", "make guest-debian"), "4G")
	guest := boot(t, hardware{
		disk: disk, memoryMiB: 1024,
		seed: seed(t, map[string]string{"user-data": debianUserData, "meta-data": quickStartMeta}),
	})
	started := time.Now()
	guest.agent.call(t, "guest-ping", nil)
	t.Logf("agent answers after %s", time.Since(started).Round(time.Second))
	if got := guest.run(t, "cloud-init status --wait"); !strings.Contains(got, "status: done") {
		t.Errorf("cloud-init: %s", got)
	}
	t.Logf("cloud-init done after %s", time.Since(started).Round(time.Second))
	for script, want := range map[string]string{
		"hostname": "linux-vm\n",
		"systemctl is-active nginx ssh systemd-networkd": strings.Repeat("active\n", 3),
		"systemctl --failed --no-legend":                 "",
		"df -BG --output=size / | tail -n1 | tr -d ' '":  "4G\n",
		". /etc/os-release; echo $ID $VERSION_ID":        "debian 12\n",
	} {
		if got := guest.run(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
	checkSSH(t, guest)
	checkWeb(t, guest)
	guest.powerDown(t)
}
