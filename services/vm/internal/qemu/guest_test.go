package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/services/vm/internal/console"
	"orlop.dev/services/vm/internal/qemu"
)

// bootSector is a guest of 95 bytes. It enables the ACPI power button, writes
// "ready\n" to its serial line, then sleeps from timer tick to timer tick and
// obeys: 'p' or the power button powers off, 'r' reboots, 'c' panics, any other
// byte comes back.
//
//	       xor ax,ax; mov ds,ax
//	       mov dx,0x602; mov ax,0x0100; out dx,ax    ; PM1 enable: power button
//	       mov si,ready; mov dx,0x3f8
//	print: lodsb; test al,al; jz idle; out dx,al; jmp print
//	idle:  sti; hlt
//	       mov dx,0x600; in ax,dx; test ah,1; jnz off ; PM1 status: power button
//	again: mov dx,0x3fd; in al,dx; test al,1; jz idle
//	       mov dx,0x3f8; in al,dx
//	       cmp al,'p'; je off; cmp al,'r'; je reset; cmp al,'c'; je panic
//	       out dx,al; jmp again
//	off:   mov dx,0x604; mov ax,0x2000; out dx,ax; jmp idle ; PM1 control: S5
//	reset: mov dx,0xcf9; mov al,6; out dx,al; jmp idle
//	panic: mov dx,0x505; mov al,1; out dx,al; jmp idle ; pvpanic
//	ready: "ready\n", 0
var bootSector = []byte{
	0x31, 0xc0, 0x8e, 0xd8, 0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, 0xbe,
	0x58, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb,
	0xf8, 0xfb, 0xf4, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x75, 0x1b,
	0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xed, 0xba, 0xf8, 0x03, 0xec,
	0x3c, 0x70, 0x74, 0x0b, 0x3c, 0x72, 0x74, 0x10, 0x3c, 0x63, 0x74, 0x14,
	0xee, 0xeb, 0xe5, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xd1,
	0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xc9, 0xba, 0x05, 0x05, 0xb0,
	0x01, 0xee, 0xeb, 0xc1, 'r', 'e', 'a', 'd', 'y', '\n', 0,
}

const machineID = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"

// patience bounds what a crowded machine may take; tests that pass don't wait.
const patience = 60 * time.Second

var probed = sync.OnceValues(func() (qemu.Host, error) {
	return qemu.Probe(context.Background(), qemu.DefaultBinary)
})

func host(t *testing.T) qemu.Host {
	t.Helper()
	if testing.Short() {
		t.Skip("runs QEMU: not in the fast run")
	}
	h, err := probed()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func run(t *testing.T, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, arguments, err, out)
	}
}

// daemon is an engine that the test can restart as a daemon would be.
type daemon struct {
	*qemu.Engine
	t       *testing.T
	options qemu.Options
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	// A name longer than a unix socket's address may be.
	folder := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	d := &daemon{t: t, options: qemu.Options{Folder: folder, Host: host(t), DiskRoots: []string{t.TempDir()}}}
	d.open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Kill(ctx, machineID); err != nil {
			t.Errorf("clean up: %v", err)
		}
		d.Close()
	})
	return d
}

func (d *daemon) open() {
	d.t.Helper()
	engine, err := qemu.New(d.options)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Engine = engine
}

func (d *daemon) restart() {
	d.t.Helper()
	d.Close()
	d.open()
}

// machine boots bootSector from an overlay on a raw image.
func (d *daemon) machine() qemu.Machine {
	d.t.Helper()
	base := filepath.Join(d.options.DiskRoots[0], "base.raw")
	sector := make([]byte, 1<<20)
	copy(sector, bootSector)
	sector[510], sector[511] = 0x55, 0xaa
	if err := os.WriteFile(base, sector, 0o600); err != nil {
		d.t.Fatal(err)
	}
	overlay := filepath.Join(d.t.TempDir(), "disk, with a comma.qcow2")
	run(d.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
	return qemu.Machine{
		ID: machineID, Name: "default/linux-vm",
		CPU:         qemu.CPU{Sockets: 1, CoresPerSocket: 1},
		MemoryBytes: 64 << 20,
		Firmware:    qemu.FirmwareBIOS,
		Devices:     qemu.DevicesVirtio,
		Disks: []qemu.Disk{{
			ID: "disk0", Serial: "abc", Path: overlay,
			Format: qemu.FormatQCOW2, Medium: qemu.MediumDisk, BootIndex: 1,
		}},
		Network: qemu.Network{Mode: qemu.NetworkNone},
	}
}

// start starts the machine, waits until its guest speaks, and gives a viewer of
// its console.
func (d *daemon) start(m qemu.Machine) (*qemu.Process, *console.Viewer) {
	d.t.Helper()
	p, err := d.Start(d.t.Context(), m)
	if err != nil {
		d.t.Fatal(err)
	}
	viewer := attach(d.t, p)
	expect(d.t, viewer, "ready\n")
	return p, viewer
}

func (d *daemon) find() *qemu.Process {
	d.t.Helper()
	p, err := d.Find(d.t.Context(), machineID)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func attach(t *testing.T, p *qemu.Process) *console.Viewer {
	t.Helper()
	viewer, err := p.Console().Attach()
	if err != nil {
		t.Fatal(err)
	}
	// A guest that stays silent must end the test, not hang it.
	late := time.AfterFunc(patience, func() { viewer.Close() })
	t.Cleanup(func() { late.Stop(); viewer.Close() })
	return viewer
}

// expect reads until the text has been seen: the firmware speaks too.
func expect(t *testing.T, from io.Reader, want string) {
	t.Helper()
	if err := waitFor(from, want); err != nil {
		t.Fatal(err)
	}
}

func waitFor(from io.Reader, want string) error {
	var seen strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(seen.String(), want) {
		if _, err := from.Read(one); err != nil {
			return fmt.Errorf("%w after %q, without %q", err, seen.String(), want)
		}
		seen.Write(one)
	}
	return nil
}

func send(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

// reaches waits for a state.
func reaches(t *testing.T, p *qemu.Process, want qemu.State) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := p.State(ctx)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("state %s, want %s", got, want)
		}
	}
}

// pid finds the machine's process as an operator would: by its command line.
func (d *daemon) pid() int {
	d.t.Helper()
	folder := filepath.Join(d.options.Folder, machineID)
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == folder {
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			if err != nil {
				d.t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// namespace makes a network namespace with a tap device in it.
func namespace(t *testing.T, tap string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	name := fmt.Sprintf("qemu-test-%d", os.Getpid())
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { run(t, "ip", "netns", "delete", name) })
	run(t, "ip", "-n", name, "tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr")
	run(t, "ip", "-n", name, "link", "set", tap, "up")
	return name
}

// sameNamespace tells whether the process is in the named network namespace.
func sameNamespace(t *testing.T, pid int, name string) bool {
	t.Helper()
	var its, named unix.Stat_t
	err := errors.Join(
		unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &its),
		unix.Stat("/run/netns/"+name, &named))
	if err != nil {
		t.Fatal(err)
	}
	return its.Ino == named.Ino && its.Dev == named.Dev
}

// freePort gives a TCP port that was free a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}
