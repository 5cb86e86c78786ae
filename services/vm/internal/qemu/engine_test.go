package qemu_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/cloudinit"
	"orlop.dev/services/vm/internal/qemu"
)

func TestAGuestRunsAndListens(t *testing.T) {
	d := newDaemon(t)
	p, viewer := d.start(d.machine())
	send(t, viewer, "hello")
	expect(t, viewer, "hello")
	second := attach(t, p)
	expect(t, second, "ready\nhello") // kept for who comes later
	send(t, second, "!")
	expect(t, viewer, "!")
	reaches(t, p, qemu.StateRunning)
	if got := p.Machine().Type; !strings.HasPrefix(got, "pc-q35-") {
		t.Errorf("machine type %q is not a fixed one", got)
	}
	if open, err := p.AgentOpen(t.Context()); err != nil || open {
		t.Errorf("agent open: %t, %v", open, err)
	}
	if ids, err := d.List(); err != nil || len(ids) != 1 || ids[0] != machineID {
		t.Errorf("list %v, %v", ids, err)
	}
}

func TestStartIsIdempotent(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	d.start(m)
	pid := d.pid()
	if _, err := d.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	d.restart()
	p, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	reaches(t, p, qemu.StateRunning)
	if got := d.pid(); got != pid || pid == 0 {
		t.Errorf("process %d became %d", pid, got)
	}
}

func TestAGuestOutlivesTheDaemonAndIsFound(t *testing.T) {
	d := newDaemon(t)
	_, before := d.start(d.machine())
	d.restart()
	if _, err := before.Read(make([]byte, 1)); err == nil {
		t.Error("the old daemon's viewer still reads")
	}
	p := d.find()
	reaches(t, p, qemu.StateRunning)
	viewer := attach(t, p)
	<-p.Console().Connected()
	send(t, viewer, "again")
	expect(t, viewer, "again")
}

func TestAGuestThatPowersOffIsToldFromACrashAlsoLater(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	p, viewer := d.start(m)
	events, cancel := p.Subscribe()
	defer cancel()
	send(t, viewer, "p")
	for event := range events {
		if event.Name == qemu.EventShutdown && event.Machine == machineID {
			break
		}
	}
	d.restart()
	p = d.find()
	reaches(t, p, qemu.StateShutdown)
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.restart()
	p = d.find()
	reaches(t, p, qemu.StateGone)
	if ending, err := p.Ending(); err != nil || ending != qemu.EndingShutdown {
		t.Errorf("ending %q, %v", ending, err)
	}
	p, _ = d.start(m) // and up again
	reaches(t, p, qemu.StateRunning)
}

func TestThePowerButtonIsPressed(t *testing.T) {
	d := newDaemon(t)
	p, _ := d.start(d.machine())
	if err := p.Powerdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	reaches(t, p, qemu.StateShutdown)
}

func TestAPanickedGuestIsKeptAndCanBeReset(t *testing.T) {
	d := newDaemon(t)
	p, viewer := d.start(d.machine())
	send(t, viewer, "c")
	reaches(t, p, qemu.StatePanicked)
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, viewer, "ready\n")
	reaches(t, p, qemu.StateRunning)
}

func TestAGuestThatRebootsStaysInItsProcess(t *testing.T) {
	d := newDaemon(t)
	p, viewer := d.start(d.machine())
	pid := d.pid()
	send(t, viewer, "r")
	expect(t, viewer, "ready\n")
	if err := p.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, viewer, "ready\n")
	reaches(t, p, qemu.StateRunning)
	if d.pid() != pid {
		t.Error("another process")
	}
}

func TestAPausedGuestGoesOn(t *testing.T) {
	d := newDaemon(t)
	p, viewer := d.start(d.machine())
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	reaches(t, p, qemu.StatePaused)
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(t, viewer, "on")
	expect(t, viewer, "on")
}

func TestAProcessKilledFromOutsideIsACrash(t *testing.T) {
	d := newDaemon(t)
	p, viewer := d.start(d.machine())
	events, cancel := p.Subscribe()
	defer cancel()
	if err := syscall.Kill(d.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Gone()
	reaches(t, p, qemu.StateGone)
	if ending, err := p.Ending(); err != nil || ending != qemu.EndingCrashed {
		t.Errorf("ending %q, %v", ending, err)
	}
	var last qemu.EventName
	for event := range events {
		last = event.Name
	}
	if last != qemu.EventGone {
		t.Errorf("last event %q", last)
	}
	if err := p.Powerdown(t.Context()); !errors.Is(err, qemu.ErrGone) {
		t.Errorf("power down: %v", err)
	}
	if _, err := viewer.Write([]byte("x")); err == nil {
		t.Error("the console still takes input")
	}
}

func TestAHungProcessIsFoundOutAndKilled(t *testing.T) {
	d := newDaemon(t)
	p, _ := d.start(d.machine())
	pid := d.pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.State(ctx); !errors.Is(err, qemu.ErrUnresponsive) {
		t.Errorf("state: %v", err)
	}
	d.options.AttachTimeout = 200 * time.Millisecond
	d.restart()
	if _, err := d.Find(t.Context(), machineID); !errors.Is(err, qemu.ErrUnresponsive) {
		t.Errorf("find: %v", err)
	}
	if _, err := d.Start(t.Context(), p.Machine()); !errors.Is(err, qemu.ErrUnresponsive) || d.pid() != pid {
		t.Errorf("start of a guest that ran, as process %d, now %d: %v", pid, d.pid(), err)
	}
	if err := d.Kill(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	if ending, err := d.find().Ending(); err != nil || ending != qemu.EndingKilled {
		t.Errorf("ending %q, %v", ending, err)
	}
}

func TestRemoveTakesOnlyWhatIsGone(t *testing.T) {
	d := newDaemon(t)
	p, _ := d.start(d.machine())
	if err := d.Remove(t.Context(), machineID); !errors.Is(err, qemu.ErrRunning) {
		t.Errorf("remove a running machine: %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Remove(t.Context(), machineID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Find(t.Context(), machineID); !errors.Is(err, qemu.ErrNotFound) {
		t.Errorf("find: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(d.options.Folder, "*"+machineID+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestQEMUsOwnWordsAreInTheErrorOfAStart(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	m.Network = qemu.Network{Mode: qemu.NetworkTap, MAC: "52:54:00:00:00:01", Tap: "tap0", Namespace: "no-such-ns"}
	_, err := d.Start(t.Context(), m)
	var start *qemu.StartError
	if !errors.As(err, &start) || !strings.Contains(start.Stderr, "no-such-ns") {
		t.Fatalf("error %v", err)
	}
	m.Network = qemu.Network{Mode: qemu.NetworkNone}
	m.CPU.Model = "no-such-model"
	if _, err = d.Start(t.Context(), m); !errors.As(err, &start) || !strings.Contains(start.Stderr, "no-such-model") {
		t.Fatalf("error %v", err)
	}
	m.CPU.Model = ""
	d.start(m) // nothing is in the way of a good one
}

func TestTwoMachinesCanNotShareADisk(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	d.start(m)
	m.ID = "00000000-0000-4000-8000-000000000002"
	var start *qemu.StartError
	if _, err := d.Start(t.Context(), m); !errors.As(err, &start) {
		t.Errorf("error %v", err)
	}
}

func TestTwoMachinesShareABackingFile(t *testing.T) {
	const second = "00000000-0000-4000-8000-000000000002"
	d := newDaemon(t)
	m := d.machine()
	d.start(m)
	overlay := filepath.Join(t.TempDir(), "second.qcow2")
	base := filepath.Join(d.options.DiskRoots[0], "base.raw")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
	m.ID, m.Disks[0].Path = second, overlay
	d.start(m)
	if err := d.Kill(t.Context(), second); err != nil {
		t.Error(err)
	}
}

func TestOneEngineAtATime(t *testing.T) {
	d := newDaemon(t)
	if _, err := qemu.New(d.options); !errors.Is(err, qemu.ErrInUse) {
		t.Errorf("error %v", err)
	}
}

func TestAGuestWithEveryDevice(t *testing.T) {
	for _, devices := range []qemu.Devices{qemu.DevicesVirtio, qemu.DevicesEmulated} {
		t.Run(string(devices), func(t *testing.T) {
			d := newDaemon(t)
			m := d.machine()
			m.Devices = devices
			m.CPU = qemu.CPU{Sockets: 2, CoresPerSocket: 2, Features: []string{"aes"}}
			m.SeedPath = filepath.Join(t.TempDir(), "seed.iso")
			seed := cloudinit.Seed{InstanceID: machineID, LocalHostname: "linux-vm"}
			if err := cloudinit.Write(m.SeedPath, seed); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"data1", "data2", "data3", "data4", "data5", "data6", "data7"} {
				path := filepath.Join(t.TempDir(), id)
				run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
				m.Disks = append(m.Disks, qemu.Disk{ID: id, Serial: "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
					Path: path, Format: qemu.FormatQCOW2, Medium: qemu.MediumDisk})
			}
			m.Disks = append(m.Disks, qemu.Disk{ID: "iso", Path: m.SeedPath,
				Format: qemu.FormatRaw, Medium: qemu.MediumCDROM, BootIndex: 2})
			port := freePort(t)
			m.Network = qemu.Network{Mode: qemu.NetworkUser, MAC: "52:54:00:00:00:01", User: &qemu.UserNetwork{
				Subnet:  netip.MustParsePrefix("10.66.10.0/24"),
				Gateway: netip.MustParseAddr("10.66.10.1"),
				Guest:   netip.MustParseAddr("10.66.10.14"), Isolated: devices == qemu.DevicesEmulated,
				Forward: []qemu.Forward{{Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), GuestPort: 22}},
			}}
			p, _ := d.start(m)
			reaches(t, p, qemu.StateRunning)
			conn, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
			if err != nil {
				t.Fatalf("the forwarded port: %v", err)
			}
			conn.Close()
		})
	}
}

func TestAGuestOnATapInANamespace(t *testing.T) {
	d := newDaemon(t)
	name := namespace(t, "tap0")
	m := d.machine()
	m.Network = qemu.Network{Mode: qemu.NetworkTap, MAC: "52:54:00:00:00:01", Tap: "tap0", Namespace: name}
	p, viewer := d.start(m)
	send(t, viewer, "hello")
	expect(t, viewer, "hello")
	if !sameNamespace(t, d.pid(), name) {
		t.Error("the process is in another network namespace")
	}
	// Before the namespace goes.
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}
