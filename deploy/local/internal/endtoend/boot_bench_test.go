package endtoend_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// bootRounds is the least number of times that each side boots.
const bootRounds = 3

// BenchmarkBoot is the time from `kubectl apply` of a disk and a VM to an agent
// that answers, beside the same QEMU, with a fresh overlay on the same image and
// the same seed, started by hand, and with a flattened copy instead.
func BenchmarkBoot(b *testing.B) {
	u := newUser(b)
	u.serveImage()
	u.up()
	manifest, err := os.ReadFile(filepath.Join(u.root, "examples", "quickstart.yaml"))
	check(b, err)
	image, machine, _ := strings.Cut(string(manifest), "\n---\n")
	u.apply(image)
	u.waitFor("vi/ubuntu", "{.status.phase}", "Ready")

	var ours, byHand, flat []time.Duration
	round := func() {
		began := time.Now()
		u.apply(machine)
		u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
		ours = append(ours, time.Since(began))
		b.StopTimer()
		twin := u.twinOfGuest(b.TempDir())
		copied := u.twinOfGuest(b.TempDir())
		u.kubectl("delete", "vm/linux-vm", "vd/linux-disk", "--timeout", "3m")
		byHand = append(byHand, twin.boot(b, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", twin.image))
		flat = append(flat, copied.boot(b, "convert", "-q", "-f", "qcow2", "-O", "qcow2", copied.image))
		b.StartTimer()
	}
	for b.Loop() {
		round()
	}
	b.StopTimer()
	for len(ours) < bootRounds {
		round()
		b.StopTimer()
	}
	b.ReportMetric(middle(ours).Seconds(), "s/boot")
	b.ReportMetric(middle(byHand).Seconds(), "s/by-hand")
	b.ReportMetric(middle(ours).Seconds()/middle(byHand).Seconds(), "times-by-hand")
	b.ReportMetric(middle(byHand).Seconds()/middle(flat).Seconds(), "overlay-times-flat")
}

func middle(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// twin is a QEMU as a running guest has it, for a person to start.
type twin struct {
	dir, image string
	arguments  []string
}

var (
	basePath = regexp.MustCompile(`[^"]*/disks/bases/[^"]*`)
	diskPath = regexp.MustCompile(`[^"]*/disks/volumes/[^"]*`)
	seedPath = regexp.MustCompile(`[^"]*/vm/seeds/[^"]*`)
)

// twinOfGuest takes the image from where it was imported, and copies what goes
// with the guest. A tap goes too, so its twin has QEMU's own network.
func (u *user) twinOfGuest(dir string) twin {
	u.t.Helper()
	line, err := os.ReadFile(filepath.Join("/proc", u.qemuPID(), "cmdline"))
	check(u.t, err)
	t := twin{dir: dir, image: u.image(), arguments: strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")}
	t.arguments = slices.DeleteFunc(t.arguments, func(argument string) bool { return argument == "-S" })
	for i, argument := range t.arguments {
		switch {
		case strings.HasPrefix(argument, "tap,") || strings.HasPrefix(argument, "stream,"):
			t.arguments[i] = "user,id=net0"
		case diskPath.MatchString(argument):
			t.arguments[i] = diskPath.ReplaceAllString(argument, filepath.Join(dir, "disk.qcow2"))
		case basePath.MatchString(argument):
			t.arguments[i] = basePath.ReplaceAllString(argument, t.image)
		case seedPath.MatchString(argument):
			seed, err := os.ReadFile(seedPath.FindString(argument))
			check(u.t, err)
			check(u.t, os.WriteFile(filepath.Join(dir, "seed.iso"), seed, 0o600))
			t.arguments[i] = seedPath.ReplaceAllString(argument, filepath.Join(dir, "seed.iso"))
		}
	}
	return t
}

// boot makes the disk by qemu-img, starts the guest, and ends it when its agent
// answers.
func (t twin) boot(b *testing.B, disk ...string) time.Duration {
	b.Helper()
	began := time.Now()
	end := t.start(b, disk...)
	took := time.Since(began)
	end()
	return took
}

// start makes the disk by qemu-img, and starts the guest until its agent answers.
func (t twin) start(b *testing.B, disk ...string) (end func()) {
	b.Helper()
	made, err := exec.Command("qemu-img", append(disk, filepath.Join(t.dir, "disk.qcow2"))...).CombinedOutput()
	if err != nil {
		b.Fatalf("qemu-img %v: %v\n%s", disk, err, made)
	}
	guest := exec.Command(t.arguments[0], t.arguments[1:]...)
	guest.Dir = t.dir
	check(b, guest.Start())
	check(b, awaitAgent(filepath.Join(t.dir, "agent.sock")))
	return func() {
		check(b, guest.Process.Kill())
		_ = guest.Wait()
	}
}

// awaitAgent asks until an agent answers. What is asked before there is one is
// lost.
func awaitAgent(socket string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	err := errors.New("nothing was asked")
	for until := time.Now().Add(deadline); time.Now().Before(until); <-tick.C {
		if err = pingAgent(socket); err == nil {
			return nil
		}
	}
	return fmt.Errorf("no agent answers at %s: %w", socket, err)
}

func pingAgent(socket string) error {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := connection.Write([]byte(`{"execute":"guest-ping"}` + "\n")); err != nil {
		return err
	}
	var answer struct {
		Return json.RawMessage `json:"return"`
	}
	return json.NewDecoder(connection).Decode(&answer)
}
