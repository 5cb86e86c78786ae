//go:build soak

package endtoend_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orlop.dev/facade/home"
)

const (
	// machineRounds of TestSoakMachines take about a quarter of a minute each.
	machineRounds = 100
	// together is how many VMs there are at most at once.
	together = 3
	// soakPause is the longest time between two things that a user does.
	soakPause = 3 * time.Second
)

// TestSoakMachines makes, changes and deletes VMs at any moment of their lives, all
// that goes with them included, again and again: nothing is left of them.
func TestSoakMachines(t *testing.T) {
	u := newUser(t)
	u.up("--copy-local-disks")
	u.findsMachines()
	for round := range soakRounds(t, machineRounds) {
		var machines []string
		for i := range 1 + rand.N(together) {
			machines = append(machines, fmt.Sprintf("vm-%d", i))
			u.apply(soakManifest(machines[i], anyOf("20%", "50%", "100%")))
			soakWait()
		}
		for range rand.N(3 * together) {
			u.changeAny(machines)
			soakWait()
		}
		var objects []string
		for _, name := range machines {
			objects = append(objects, "vm/"+name, "vd/"+name, "vd/"+name+"-more", "vmbda/"+name)
		}
		rand.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		u.kubectl(append([]string{"delete", "--ignore-not-found", "--timeout", "3m"}, objects...)...)
		t.Logf("round %d: %d VMs came and went", round, len(machines))
		u.leavesNothing()
		if left := u.leftOfMachines(); len(left) > 0 || t.Failed() {
			t.Fatalf("what is left:\n%s", strings.Join(left, "\n"))
		}
	}
}

// findsMachines shows that what is looked for after the rounds would be found.
func (u *user) findsMachines() {
	u.t.Helper()
	u.apply(soakManifest("seen", "20%"))
	u.waitFor("vm/seen", "{.status.phase}", "Running")
	left := u.leftOfMachines()
	kinds := []string{"object", "lease", "process", "file"}
	state := home.Home(u.home)
	for kind, needs := range map[string]string{"tap": state.NetworkNamespace(), "control group": filepath.Join(state.Machines(), "cgroups")} {
		if _, err := os.Stat(needs); err == nil {
			kinds = append(kinds, kind)
		}
	}
	for _, kind := range kinds {
		if !slices.ContainsFunc(left, func(one string) bool { return strings.HasPrefix(one, kind+" ") }) {
			u.t.Fatalf("no %s of a VM that runs is found, but\n%s", kind, strings.Join(left, "\n"))
		}
	}
	u.kubectl("delete", "vm/seen", "vd/seen", "vd/seen-more", "--timeout", "3m")
}

// soakWait is a user's pause. What matters is that nobody knows how long it is.
func soakWait() { <-time.After(rand.N(soakPause)) }

func anyOf(values ...string) string { return values[rand.N(len(values))] }

// soakManifest is a VM without a system, with two disks, of any kind that leaves
// something to clean up: a TPM, firmware with variables, a control group.
func soakManifest(name, fraction string) string {
	disk := func(name string) string {
		return fmt.Sprintf(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: %s}
spec: {persistentVolumeClaim: {size: 64Mi, storageClassName: %s}}
---`, name, anyOf("local", "local", "local-wffc"))
	}
	return disk(name) + disk(name+"-more") + fmt.Sprintf(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachine
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: %s
  osType: %s
  bootloader: %s
  cpu: {cores: 1, coreFraction: %s}
  memory: {size: 256Mi}
  provisioning: {type: UserData, userData: "#cloud-config"}
  blockDeviceRefs: [{kind: VirtualDisk, name: %s}]
`, name, anyOf("0", "1"), anyOf("Generic", "Generic", "Windows"), anyOf("BIOS", "BIOS", "EFI"), fraction, name)
}

// changeAny does anything to one of the VMs. It may be refused at this moment:
// then that is told.
func (u *user) changeAny(machines []string) {
	u.t.Helper()
	name := machines[rand.N(len(machines))]
	patch := func(kind, object, spec string) []string {
		return []string{"kubectl", "patch", kind, object, "--type", "merge", "-p", `{"spec": ` + spec + `}`}
	}
	changes := [][]string{
		{"orlop", "stop", name, "--create-only"}, {"orlop", "start", name, "--create-only"},
		{"orlop", "restart", name, "--create-only"}, {"orlop", "evict", name, "--create-only"},
		{"kubectl", "label", "vm", name, fmt.Sprintf("soak=%d", rand.N(1000)), "--overwrite"},
		patch("vm", name, `{"cpu": {"cores": 2}}`), patch("vm", name, `{"runPolicy": "AlwaysOff"}`),
		patch("vm", name, `{"runPolicy": "AlwaysOn"}`), patch("vm", name, `{"cpu": {"coreFraction": "10%"}}`),
		patch("vd", name, `{"persistentVolumeClaim": {"size": "96Mi"}}`),
		{"kubectl", "delete", "vmbda", name, "--ignore-not-found", "--wait=false"}, {"kubectl", "apply", "-f", "-"},
	}
	change := changes[rand.N(len(changes))]
	command := exec.Command(u.bin(change[0]), change[1:]...)
	command.Stdin = strings.NewReader(fmt.Sprintf(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualMachineBlockDeviceAttachment
metadata: {name: %s}
spec: {virtualMachineName: %s, blockDeviceRef: {kind: VirtualDisk, name: %s-more}}
`, name, name, name))
	said, err := u.run(command)
	u.t.Logf("%s: %s (%v)", strings.Join(change, " "), strings.TrimSpace(said), err)
}

// leftOfMachines is all that there is of VMs: nothing, once they are deleted. Leases
// stay for a while, but nobody has them.
func (u *user) leftOfMachines() []string {
	u.t.Helper()
	state := home.Home(u.home)
	var left []string
	add := func(what string, names ...string) {
		for _, name := range names {
			left = append(left, what+" "+strings.TrimSpace(name))
		}
	}
	add("object", slices.Collect(strings.Lines(u.kubectl("get", "vm,vd,vmbda,vmip", "-o", "name")))...)
	leases := u.kubectl("get", "vmipl", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{'\\n'}{end}")
	for lease := range strings.Lines(leases) {
		if !strings.HasSuffix(lease, " Released\n") {
			add("lease", lease)
		}
	}
	add("process", processesIn(u.t, state.Machines())...)
	add("file", u.filesOfMachines(state.Machines())...)
	if _, err := os.Stat(state.NetworkNamespace()); err == nil {
		taps := u.mustRun(exec.Command("ip", "-n", filepath.Base(state.NetworkNamespace()), "-o", "link", "show", "type", "tun"))
		add("tap", slices.Collect(strings.Lines(taps))...)
	}
	add("control group", u.groupsOfMachines(filepath.Join(state.Machines(), "cgroups"))...)
	return left
}

// filesOfMachines are those in the vm service's folder that are not its own.
func (u *user) filesOfMachines(dir string) []string {
	u.t.Helper()
	own := []string{".", "cgroups", "machines", "machines/lock", "memories", "nonvolatile", "seeds"}
	var left []string
	check(u.t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if !slices.Contains(own, name) {
			left = append(left, name)
		}
		return err
	}))
	return left
}

// groupsOfMachines are guests' control groups. The file says where they are; there
// is none where none can be made.
func (u *user) groupsOfMachines(file string) []string {
	u.t.Helper()
	dir, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	check(u.t, err)
	groups, err := os.ReadDir(strings.TrimSpace(string(dir)))
	check(u.t, err)
	var left []string
	for _, group := range groups {
		if group.IsDir() {
			left = append(left, group.Name())
		}
	}
	return left
}

// processesIn are those that work in a folder, or are told of it: guests, and what
// is started with them.
func processesIn(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	check(t, err)
	var found []string
	for _, process := range all {
		where, _ := os.Readlink(filepath.Join(process, "cwd")) // it may have ended
		line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		if strings.HasPrefix(where, dir) || strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
