package vm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve/servetest"
	"orlop.dev/services/vm/internal/qmp"
)

const (
	mostGuests = 30
	// startRounds is the least number of times that each side starts its guests.
	startRounds = 3
)

// BenchmarkStart is the time from the first creation of some VMs at once to the
// watch that says that all of them run, and the processor time that the service
// takes for it, beside the same QEMUs started by hand, at once too, until all of
// them say that their guests run.
func BenchmarkStart(b *testing.B) {
	f := newFleet(b, mostGuests)
	for _, count := range []int{1, 10, mostGuests} {
		b.Run(fmt.Sprintf("guests=%d", count), func(b *testing.B) {
			var ours, processor, byHand []time.Duration
			round := func() {
				wall, cpu := f.createAll(b, count)
				ours, processor = append(ours, wall), append(processor, cpu)
				b.StopTimer()
				commands := f.commands(b, count)
				f.deleteAll(b, count)
				byHand = append(byHand, f.startByHand(b, commands))
				b.StartTimer()
			}
			for b.Loop() {
				round()
			}
			b.StopTimer()
			for len(ours) < startRounds {
				round()
				b.StopTimer()
			}
			each := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(count) }
			b.ReportMetric(each(median(ours)), "ms/VM")
			b.ReportMetric(each(median(byHand)), "ms/VM-by-hand")
			b.ReportMetric(each(median(ours)-median(byHand)), "ms-added/VM")
			b.ReportMetric(each(median(processor)), "ms-cpu/VM")
		})
	}
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// createAll makes VMs and waits until all run.
func (f *fleet) createAll(b *testing.B, count int) (wall, processor time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), servetest.Patience)
	defer cancel()
	before, began := f.taken(), time.Now()
	for i := range count {
		_, err := f.machines.Create(ctx, guest(guestName(i)), resource.WriteOptions{})
		check(b, err)
	}
	running := map[string]bool{}
	for event, err := range f.machines.Watch(ctx, resource.WatchOptions{Namespace: "default"}) {
		check(b, err)
		if event.Type != resource.Bookmark && event.Object.GetStatus().GetPhase() == vmv1.VirtualMachinePhase_Running {
			running[event.Object.GetMetadata().GetName()] = true
		}
		if len(running) == count {
			break
		}
	}
	wall = time.Since(began)
	return wall, f.taken() - before
}

// guest is a VM that is turned off at once when it is deleted.
func guest(name string) *vmv1.VirtualMachine {
	return &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &vmv1.VirtualMachineSpec{
			VirtualMachineClassName: "generic", Cpu: &vmv1.CPU{Cores: 1}, Memory: &vmv1.Memory{Size: "64Mi"},
			VirtualMachineIpAddressName: name, Networks: []*vmv1.NetworkRef{{Type: vmv1.NetworkType_Main, VirtualMachineMacAddressName: name}},
			TerminationGracePeriodSeconds: new(int32),
			BlockDeviceRefs:               []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: name}},
		},
	}
}

// commands are the command lines of the guests, for a person to start again.
func (f *fleet) commands(b *testing.B, count int) [][]string {
	b.Helper()
	var all [][]string
	for i := range count {
		found := processes(b, f.disk(guestName(i)))
		if len(found) != 1 {
			b.Fatalf("%s is run by processes %v", guestName(i), found)
		}
		line, err := os.ReadFile(filepath.Join("/proc", found[0], "cmdline"))
		check(b, err)
		arguments := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		all = append(all, slices.DeleteFunc(arguments, func(a string) bool { return a == "-S" }))
	}
	return all
}

func (f *fleet) deleteAll(b *testing.B, count int) {
	b.Helper()
	for i := range count {
		_, err := f.machines.Delete(b.Context(), key(guestName(i)), resource.DeleteOptions{})
		check(b, err)
	}
	for i := range count {
		servetest.AwaitGone(b, f.machines, key(guestName(i)))
	}
}

// startByHand starts the commands at once, and ends them when all their guests run.
func (f *fleet) startByHand(b *testing.B, commands [][]string) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), servetest.Patience)
	defer cancel()
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, command := range commands {
		socket, end := f.byHand(b, command)
		defer end()
		group.Go(func() error { return awaitGuest(ctx, socket) })
	}
	check(b, group.Wait())
	return time.Since(began)
}

// byHand starts a command in a folder of its own. The socket is QEMU's monitor.
func (f *fleet) byHand(b *testing.B, command []string) (socket string, end func()) {
	b.Helper()
	dir, err := os.MkdirTemp(f.dir, "hand")
	check(b, err)
	process := exec.Command(command[0], command[1:]...)
	process.Dir = dir
	// As the engine's: a session of its own has its own share of the processor.
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	check(b, process.Start())
	return filepath.Join(dir, "qmp.sock"), func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}
}

// awaitGuest asks QEMU until it says that its guest runs, as often as the engine
// does.
func awaitGuest(ctx context.Context, socket string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		var answer struct{ Running bool }
		if last = askQEMU(ctx, socket, "query-status", &answer); last == nil && answer.Running {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", socket, last)
		case <-tick.C:
		}
	}
}

func askQEMU(ctx context.Context, socket, command string, answer any) error {
	client, err := dialQEMU(ctx, socket)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Execute(ctx, command, nil, answer)
}

func dialQEMU(ctx context.Context, socket string) (*qmp.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return qmp.New(ctx, conn)
}
