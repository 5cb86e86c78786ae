package endtoend_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"orlop.dev/facade/home"
)

// manySnapshots are more than a disk may have files.
const manySnapshots = 200

// fewFiles are not made fewer (docs/adr/0020).
const fewFiles = 16

// snapshots are taken of the quick start's disk, one after the other.
func (u *user) snapshots(count int) (names []string) {
	u.t.Helper()
	for i := range count {
		name := fmt.Sprintf("many-%d", i)
		u.apply(snapshotOf(name, false))
		u.waitFor("vdsnapshot/"+name, "{.status.phase}", "Ready")
		names = append(names, "vdsnapshot/"+name)
	}
	return names
}

// files counts those that the quick start's disk is read through.
func (u *user) files() int {
	u.t.Helper()
	records, err := filepath.Glob(filepath.Join(home.Home(u.home).Machines(), "machines", "*", "machine.json"))
	check(u.t, err)
	content, err := os.ReadFile(records[0])
	check(u.t, err)
	var record struct {
		Machine struct{ Disks []struct{ Path string } }
	}
	check(u.t, json.Unmarshal(content, &record))
	said := u.mustRun(exec.Command("qemu-img", "info", "-U", "--backing-chain", "--output=json", record.Machine.Disks[0].Path))
	var chain []any
	check(u.t, json.Unmarshal([]byte(said), &chain))
	return len(chain)
}

// shortens waits until the disk has few files again.
func (u *user) shortens() {
	u.t.Helper()
	u.until("the disk has few files", func() (string, bool) {
		files := u.files()
		return fmt.Sprintf("%d files", files), files <= fewFiles
	})
}

// readTime is how long the guest takes to read its disk, past its caches.
func (u *user) readTime() time.Duration {
	u.t.Helper()
	said := u.inGuest("cloud", "a=$(cut -d' ' -f1 /proc/uptime); sudo dd if=/dev/sda of=/dev/null bs=128k iflag=direct 2>/dev/null; echo from $a to $(cut -d' ' -f1 /proc/uptime)")
	found := regexp.MustCompile(`from ([0-9.]+) to ([0-9.]+)`).FindStringSubmatch(said)
	if found == nil {
		u.t.Fatalf("the guest says %q", said)
	}
	from, err := strconv.ParseFloat(found[1], 64)
	check(u.t, err)
	to, err := strconv.ParseFloat(found[2], 64)
	check(u.t, err)
	return time.Duration((to - from) * float64(time.Second))
}

// BenchmarkReadThroughSnapshots is how fast a guest reads a disk with two hundred
// snapshots, as soon as they are taken and once its files were made fewer, beside
// the same disk before.
func BenchmarkReadThroughSnapshots(b *testing.B) {
	u := newUser(b)
	u.serveImage()
	u.up()
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	read := func() float64 {
		var took []time.Duration
		for range deviceRounds {
			took = append(took, u.readTime())
		}
		return middle(took).Seconds()
	}
	before := read()
	u.inGuest("cloud", write)
	u.snapshots(manySnapshots)
	u.inGuest("cloud", stop)
	deep, files := read(), u.files()
	u.shortens()
	b.ReportMetric(before, "s/before")
	b.ReportMetric(float64(files), "files/many")
	b.ReportMetric(deep/before, "times-before/many")
	b.ReportMetric(read()/before, "times-before/shortened")
	b.ReportMetric(0, "ns/op")
}
