// Package endtoend_test does what a new user does, with the built programs
// alone: starts Orlop, applies the quick start, logs in.
package endtoend_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"orlop.dev/facade/home"
)

const (
	// deadline bounds every wait. A guest without KVM on a busy machine is slow;
	// nothing waits for it in a good run.
	deadline = 5 * time.Minute
	// imageAddress is where examples/quickstart.yaml finds its image.
	imageAddress = "127.0.0.1:18480"
)

// user is a person at a terminal, with a folder for this installation.
type user struct {
	t    testing.TB
	root string
	home string
}

// TestQuickStart is the guide's quick start, from nothing to a login, and on:
// the daemon is killed under the guest, and everything is deleted at the end.
func TestQuickStart(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up()

	u.kubectl("apply", "-f", filepath.Join(u.root, "examples", "quickstart.yaml"))
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	t.Log("\n" + u.kubectl("get", "vi,vd,vm", "-o", "wide"))

	u.tells(t, "the columns are the guide's", (*user).testColumns)
	u.tells(t, "a person logs in on the serial console", (*user).testLogin)
	u.tells(t, "REST and gRPC show the same machine", (*user).testDoors)
	u.tells(t, "Services and Ingresses lead to it", (*user).testPublishing)
	u.tells(t, "a guest outlives a killed daemon", (*user).testKill)
	u.tells(t, "it moves to the other node, and a connection survives", (*user).testMigrate)
	u.tells(t, "a quota counts it once, and lets no other start", (*user).testQuota)
	u.tells(t, "a disk is attached while it runs", (*user).testAttach)
	u.tells(t, "a change waits for a restart", (*user).testChange)
	u.tells(t, "operations stop and start it", (*user).testOperations)
	u.tells(t, "the disk is there again, and is detached", (*user).testDetach)
	u.tells(t, "everything goes when it is deleted", (*user).testDelete)
}

// tells runs a part of the story, which ends with the first part that fails.
func (u *user) tells(t *testing.T, name string, part func(*user)) {
	t.Helper()
	passed := t.Run(name, func(t *testing.T) {
		inPart := *u
		inPart.t = t
		part(&inPart)
	})
	if !passed {
		t.FailNow()
	}
}

func newUser(t testing.TB) *user {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest: not in the fast run")
	}
	root, err := filepath.Abs("../../../..")
	check(t, err)
	u := &user{t: t, root: root, home: t.TempDir()}
	for _, program := range []string{"orlop", "orlopd", "kube"} {
		if _, err := os.Stat(u.bin(program)); err != nil {
			t.Skipf("bin/%s is not built: make build builds it", program)
		}
	}
	if _, err := os.Stat(u.image()); err != nil {
		t.Skip("the guest image is not built: make guest-micro builds it")
	}
	return u
}

// starts has the suite come up, also after it was killed.
func (u *user) starts(flags ...string) {
	u.t.Helper()
	u.orlop(append([]string{"up", "--allow-image-source", "127.0.0.0/8"}, flags...)...)
}

// up starts the suite, which ends with the test, its guests too.
func (u *user) up(flags ...string) {
	u.t.Helper()
	u.starts(flags...)
	u.t.Cleanup(func() {
		if said, err := u.run(exec.Command(u.bin("orlop"), "down", "--guests")); err != nil {
			u.t.Errorf("orlop down --guests: %v\n%s", err, said)
		}
	})
}

func (u *user) bin(name string) string { return filepath.Join(u.root, "bin", name) }

func (u *user) image() string {
	return filepath.Join(u.root, ".orlop", "guest", "micro.qcow2")
}

func (u *user) serveImage() {
	listener, err := net.Listen("tcp", imageAddress)
	check(u.t, err)
	server := &http.Server{Handler: http.FileServer(http.Dir(filepath.Dir(u.image()))), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	u.t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			u.t.Errorf("the image's server: %v", err)
		}
	})
}

func (u *user) testColumns() {
	for what, pattern := range map[string]string{
		"vi":    `(?m)^NAME +PHASE +CDROM +PROGRESS +AGE\nubuntu +Ready +false +100% `,
		"vd":    `(?m)^NAME +PHASE +CAPACITY +AGE\nlinux-disk +Ready +\d+[A-Z]i `,
		"vm":    `(?m)^NAME +PHASE +NODE +IPADDRESS +AGE\nlinux-vm +Running +\S+ +10\.66\.\d+\.\d+ `,
		"vmip":  `(?m)^NAME +ADDRESS +STATUS +VM +AGE\nlinux-vm-\S+ +10\.66\.\d+\.\d+ +Attached +linux-vm `,
		"vmipl": `(?m)^NAME +VIRTUALMACHINEIPADDRESS +STATUS +AGE\nip-10-66-\d+-\d+ +\{.*"linux-vm-\S+".*\} +Bound `,
	} {
		if got := u.kubectl("get", what); !regexp.MustCompile(pattern).MatchString(got) {
			u.t.Errorf("get %s shows\n%s", what, got)
		}
	}
}

// testLogin types what a person would. The address that the guest has must be
// the one that the VM's status shows.
func (u *user) testLogin() {
	console := u.openConsole()
	defer console.close()
	console.knock()
	console.send("cloud\n")
	console.expect("Password: ")
	console.send("cloud\n")
	console.expect(`cloud@linux-vm:~$ `)
	for command, want := range map[string]string{
		"id -un":          `\ncloud\r`,
		"hostname":        `\nlinux-vm\r`,
		"sudo -n id -u":   `\n0\r`,
		"lsblk":           `\nsda .* disk`,
		"ip -4 addr show": regexp.QuoteMeta(u.address()) + "/",
		"nproc":           `\n1\r`,
	} {
		console.send(command + "\n")
		answer := console.expect(`cloud@linux-vm:~$ `)
		if !regexp.MustCompile(want).MatchString(answer) {
			u.t.Errorf("%s says %q, want %s", command, answer, want)
		}
	}
	console.send("exit\n")
}

func (u *user) testDoors() {
	uid := u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.phase}")
	rest := u.rest("GET", "/v1alpha2/namespaces/default/virtualmachines/linux-vm", "")
	if !strings.Contains(rest, `"phase":"`+uid+`"`) && !strings.Contains(rest, `"phase": "`+uid+`"`) {
		u.t.Errorf("REST shows %s", rest)
	}
	u.rest("POST", "/v1alpha2/namespaces/default/virtualdisks",
		`{"metadata":{"name":"by-rest"},"spec":{"persistentVolumeClaim":{"size":"10Mi"}}}`)
	u.appears("vd/by-rest")
	u.waitFor("vd/by-rest", "{.status.phase}", "Ready")
	u.kubectl("delete", "vd", "by-rest")
	address := u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.ipAddress}")
	for _, said := range []string{u.orlop("guest", "linux-vm"), u.rest("GET", "/v1alpha2/namespaces/default/virtualmachines/linux-vm:guestInfo", "")} {
		if !strings.Contains(said, address) || !strings.Contains(said, "ext4") || !strings.Contains(said, "Orlop micro guest") {
			u.t.Errorf("the guest says of itself\n%s", said)
		}
	}
	grpc := u.grpcurl(`{"namespace":"default","name":"linux-disk"}`, "orlop.disk.v1.VirtualDiskService/GetVirtualDisk")
	if !strings.Contains(grpc, `"phase": "Ready"`) {
		u.t.Errorf("gRPC shows %s", grpc)
	}
	if status := u.restStatus("GET", "/v1alpha2/namespaces/default/virtualdisks", "", ""); status != http.StatusUnauthorized {
		u.t.Errorf("without a credential REST answers %d", status)
	}
}

func (u *user) testKill() {
	before := u.qemuPID()
	console := u.openConsole()
	console.knock()
	console.close()
	u.killDaemon()
	u.starts()
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	if after := u.qemuPID(); after != before {
		u.t.Errorf("QEMU was process %s and is %s", before, after)
	}
	console = u.openConsole()
	defer console.close()
	console.knock()
}

func (u *user) testChange() {
	u.kubectl("patch", "vm", "linux-vm", "--type", "merge", "-p", `{"spec":{"cpu":{"cores":2}}}`)
	u.waitFor("vm/linux-vm", "{.status.restartAwaitingChanges[*].path}", "cpu.cores")
	u.orlop("restart", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AwaitingRestartToApplyConfiguration")].status}`, "False")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
}

func (u *user) testOperations() {
	u.orlop("stop", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", "{.status.phase}", "Stopped")
	u.orlop("start", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	if got := u.kubectl("get", "vmip", "-o", "name"); strings.Count(got, "\n") != 1 {
		u.t.Errorf("after stops and starts the addresses are\n%s", got)
	}
	got := u.kubectl("get", "vmop", "--no-headers")
	if done := strings.Count(got, "Completed"); done < 3 || done != strings.Count(strings.TrimSpace(got), "\n")+1 {
		u.t.Errorf("the operations are\n%s", got)
	}
}

func (u *user) testDelete() {
	for _, object := range []string{"vm/linux-vm", "vd/linux-disk", "vi/ubuntu"} {
		u.kubectl("delete", object, "--timeout", "3m")
	}
	if got := u.kubectl("get", "vi,vd,vm,vmip,vmmac"); !strings.Contains(got, "No resources found") {
		u.t.Errorf("what is left:\n%s", got)
	}
	if left, _ := filepath.Glob(filepath.Join(u.home, "disks", "*", "*")); len(left) > 0 {
		u.t.Errorf("files are left: %v", left)
	}
}

func (u *user) address() string {
	return u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.ipAddress}")
}

// endpoint is the address of a door, from endpoints.json.
func (u *user) endpoint(name string) string {
	u.t.Helper()
	content, err := os.ReadFile(filepath.Join(u.home, "endpoints.json"))
	check(u.t, err)
	endpoints := map[string]string{}
	check(u.t, json.Unmarshal(content, &endpoints))
	return endpoints[name]
}

func (u *user) token() string {
	content, err := os.ReadFile(filepath.Join(u.home, "token"))
	check(u.t, err)
	return strings.TrimSpace(string(content))
}

// qemuPID finds the guest's process by a file that only it has open.
func (u *user) qemuPID() string {
	u.t.Helper()
	return strings.TrimSpace(u.mustRun(exec.Command("pgrep", "-f", "qemu-system-x86_64.*default/linux-vm.*"+u.home)))
}

// waitFor blocks until a field of an object has a value.
func (u *user) waitFor(object, path, value string) {
	u.t.Helper()
	u.kubectl("wait", object, "--for=jsonpath="+path+"="+value, "--timeout", deadline.String())
}

// appears blocks until what another door made is an object of Kubernetes' too.
func (u *user) appears(object string) {
	u.t.Helper()
	u.kubectl("wait", object, "--for=create", "--timeout", deadline.String())
}

func (u *user) kubectl(args ...string) string {
	u.t.Helper()
	command := exec.Command(u.bin("kubectl"), args...)
	return u.mustRun(command)
}

func (u *user) orlop(args ...string) string {
	u.t.Helper()
	return u.mustRun(exec.Command(u.bin("orlop"), args...))
}

func (u *user) mustRun(command *exec.Cmd) string {
	u.t.Helper()
	output, err := u.run(command)
	if err != nil {
		u.t.Fatalf("%s: %v\n%s", strings.Join(command.Args, " "), err, output)
	}
	return output
}

func (u *user) run(command *exec.Cmd) (string, error) {
	command.Env = append(os.Environ(), "ORLOP_HOME="+u.home, "KUBECONFIG="+filepath.Join(u.home, "kubeconfig"))
	output := new(bytes.Buffer)
	command.Stdout, command.Stderr = output, output
	err := command.Run()
	return output.String(), err
}

func (u *user) grpcurl(body, method string) string {
	u.t.Helper()
	if _, err := os.Stat(u.bin("grpcurl")); err != nil {
		u.t.Skip("bin/grpcurl is not built: tools/build.sh builds it")
	}
	return u.mustRun(exec.Command(u.bin("grpcurl"), "-cacert", filepath.Join(u.home, "ca.crt"),
		"-H", "Authorization: Bearer "+u.token(), "-d", body, u.endpoint("grpc"), method))
}

func (u *user) rest(method, path, body string) string {
	u.t.Helper()
	args := []string{"-sS", "--fail-with-body", "--cacert", filepath.Join(u.home, "ca.crt"), "-X", method,
		"-H", "Authorization: Bearer " + u.token(), u.restURL(path)}
	if body != "" {
		args = append(args, "-d", body)
	}
	return u.mustRun(exec.Command("curl", args...))
}

func (u *user) restStatus(method, path, body, token string) int {
	u.t.Helper()
	output := u.mustRun(exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert",
		filepath.Join(u.home, "ca.crt"), "-X", method, "-H", "Authorization: "+token, "-d", body, u.restURL(path)))
	var status int
	_, err := fmt.Sscan(output, &status)
	check(u.t, err)
	return status
}

func (u *user) restURL(path string) string {
	address := u.endpoint("rest")
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	return address + path
}

func (u *user) killDaemon() {
	u.t.Helper()
	pid, err := home.Home(u.home).Owner()
	check(u.t, err)
	check(u.t, syscall.Kill(pid, syscall.SIGKILL))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for owner, err := home.Home(u.home).Owner(); owner != 0; owner, err = home.Home(u.home).Owner() {
		check(u.t, err)
		<-tick.C
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
