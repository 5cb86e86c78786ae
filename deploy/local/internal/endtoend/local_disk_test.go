package endtoend_test

import (
	"regexp"
	"strings"
	"testing"
)

// slowly has the disk copied in some seconds.
var slowly = []string{"--copy-local-disks", "--migration-bandwidth", "40Mi", "--default-storage-class", "local-wffc"}

// TestLocalDisk has the quick start's VM on a disk that only its node reaches.
func TestLocalDisk(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up(slowly...)
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	u.tells(t, "its disk moves along, under a guest that writes", (*user).testDiskMoves)
	u.tells(t, "a killed daemon goes on", (*user).testKilledCopying)
	u.tells(t, "a migration that is aborted leaves the disk where it was", (*user).testAbortedCopying)
	u.tells(t, "the disk is whole when it starts anew", (*user).testLocalRestart)
}

func (u *user) testDiskMoves() {
	source := u.node()
	u.waitFor("vd/linux-disk", "{.status.storageClassName}", "local-wffc")
	u.writesLines()
	u.orlop("evict", "linux-vm", "--wait")
	if now := u.node(); now == source {
		u.t.Errorf("it is on %s still", now)
	}
	u.wantLines()
}

// writesLines has the guest write all the time: each line is on its disk before
// the next one is written.
func (u *user) writesLines() {
	u.t.Helper()
	u.inGuest("cloud", `(trap '' HUP; i=0; while :; do i=$((i+1)); echo $i >>lines; sync; done) >/dev/null 2>&1 &`)
}

// wantLines demands that none of the lines is missing, nor the last one.
func (u *user) wantLines() {
	u.t.Helper()
	said := u.inGuest("cloud", `sleep 1; awk '$1 != NR {bad++} END {print "lines " (NR > 10), "bad " bad+0}' lines; sudo -n dmesg | grep -ci 'ext4.*error'`)
	if !regexp.MustCompile(`lines 1 bad 0\r\n0\r`).MatchString(said) {
		u.t.Errorf("the guest says %q", said)
	}
}

// copying begins a migration, and returns when its disk is being copied.
func (u *user) copying() {
	u.t.Helper()
	u.apply(evictFirst)
	u.waitFor("vmop/leave", `{.status.conditions[?(@.type=="Completed")].reason}`, "Syncing")
	if said := u.value("vmop/leave", `{.status.conditions[?(@.type=="Completed")].message}`); !strings.HasPrefix(said, "Disks are copied to node-") {
		u.t.Errorf("the operation says %q", said)
	}
}

func (u *user) testKilledCopying() {
	source := u.node()
	u.copying()
	u.killDaemon()
	u.starts(slowly...)
	u.waitFor("vmop/leave", "{.status.phase}", "Completed")
	if now := u.node(); now == source {
		u.t.Errorf("it is on %s still", now)
	}
	u.wantLines()
	u.kubectl("delete", "vmop", "--all")
}

func (u *user) testAbortedCopying() {
	source := u.node()
	u.copying()
	u.kubectl("delete", "vmop/leave", "--timeout", "1m")
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	if now := u.node(); now != source {
		u.t.Errorf("it is on %s, and was on %s", now, source)
	}
	u.wantLines()
}

func (u *user) testLocalRestart() {
	node := u.node()
	u.orlop("restart", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	if now := u.node(); now != node {
		u.t.Errorf("its disk is on %s, and it is on %s", node, now)
	}
	u.wantLines()
	u.testDelete()
}
