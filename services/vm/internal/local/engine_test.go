package local_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/attachment/attachmenttest"
	"orlop.dev/services/vm/internal/local"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/machine/machinetest"
	"orlop.dev/services/vm/internal/migration/migrationtest"
	"orlop.dev/services/vm/internal/qemu"
)

// bootSector is a guest that says "ready" on its serial line. Its power button
// powers it off, and so does a typed 'p'; 'c' makes it panic. Package qemu's tests
// have its source.
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

var probed = sync.OnceValues(func() (qemu.Host, error) {
	return qemu.Probe(context.Background(), qemu.DefaultBinary)
})

func open(t *testing.T) *local.Engine {
	t.Helper()
	if testing.Short() {
		t.Skip("runs QEMU: not in the fast run")
	}
	host, err := probed()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-system-x86_64 is not installed: make setup installs it")
	}
	if err != nil {
		t.Fatal(err)
	}
	engine, err := local.New(local.Options{
		Dir: t.TempDir(), Host: host, Changed: func(string) {}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	return engine
}

func instance(t *testing.T, uid string) machine.Instance {
	t.Helper()
	sector := make([]byte, 1<<20)
	copy(sector, bootSector)
	sector[510], sector[511] = 0x55, 0xaa
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(disk, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	return machine.Instance{
		UID: uid, Namespace: "default", Name: "web", Topology: &vmv1.CPUTopology{Sockets: 1, CoresPerSocket: 1},
		MemoryBytes: 64 << 20, Paravirtualized: true,
		Devices: []machine.Device{{ID: "virtualdisk/root", Path: disk, Format: "raw"}},
		Port: &networkv1.Port{
			MacAddress: "52:54:00:00:00:01", Mode: networkv1.PortMode_User, Address: "10.66.10.10/24", Gateway: "10.66.10.1",
		},
		Provisioning: machine.Provisioning{UserData: []byte("#cloud-config\n")},
	}
}

func TestEngine(t *testing.T) {
	machinetest.RunEngine(t, func(t *testing.T) machinetest.Subject {
		engine := open(t)
		return machinetest.Subject{
			Engine: engine, Instance: instance, Size: size,
			End: func(t *testing.T, uid string, how machine.State) { end(t, engine, uid, how) },
		}
	})
}

func TestPlug(t *testing.T) {
	attachmenttest.RunEngine(t, func(t *testing.T) attachmenttest.Subject {
		return attachmenttest.Subject{Engine: open(t), Instance: instance, Device: func(t *testing.T) machine.Device {
			path := filepath.Join(t.TempDir(), "spare.raw")
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			return machine.Device{Path: path, Format: "raw"}
		}}
	})
}

// size is that of the file, which QEMU makes as large as a raw disk.
func size(t *testing.T, instance machine.Instance) int64 {
	t.Helper()
	info, err := os.Stat(instance.Devices[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func end(t *testing.T, engine *local.Engine, uid string, how machine.State) {
	t.Helper()
	line, err := engine.Console(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	viewer, err := line.Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	var output []byte
	buffer := make([]byte, 4096)
	for !bytes.Contains(output, []byte("ready")) {
		n, err := viewer.Read(buffer)
		if err != nil {
			t.Fatalf("the guest did not come up: %v; it said %q", err, output)
		}
		output = append(output, buffer[:n]...)
	}
	switch how {
	case machine.Shutdown:
		_, err = viewer.Write([]byte("p"))
	case machine.Panicked:
		_, err = viewer.Write([]byte("c"))
	case machine.Crashed:
		err = unix.Kill(processOf(t, uid), unix.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// processOf is the number of the process that runs an instance.
func processOf(t *testing.T, uid string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		text, err := os.ReadFile(line)
		if err != nil || !bytes.Contains(text, []byte(uid)) || !bytes.Contains(text, []byte("qemu-system")) {
			continue
		}
		number, err := strconv.Atoi(strings.Split(line, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		return number
	}
	t.Fatalf("no process runs %s", uid)
	return 0
}

func TestConsoleOfWhatDoesNotRunIsNotReady(t *testing.T) {
	_, err := open(t).Console(t.Context(), "6f9619ff-8b86-4011-b42d-00cf4fc964ff")
	if !fault.Is(err, fault.NotReady) {
		t.Errorf("got %v", err)
	}
}

func TestSeedGoesWithItsInstance(t *testing.T) {
	const uid = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"
	engine := open(t)
	if err := engine.Start(t.Context(), instance(t, uid)); err != nil {
		t.Fatal(err)
	}
	if err := engine.Kill(t.Context(), uid); err != nil {
		t.Fatal(err)
	}
	if sight, err := engine.Look(t.Context(), uid); err != nil || sight.State != machine.Absent {
		t.Errorf("%v, %v", sight, err)
	}
}

func TestInstanceThatQEMURefusesIsInvalid(t *testing.T) {
	const uid = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"
	engine, refused := open(t), instance(t, uid)
	refused.MemoryBytes = -1
	if err := engine.Start(t.Context(), refused); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
	unplugged := instance(t, uid)
	unplugged.Port = &networkv1.Port{MacAddress: "52:54:00:00:00:01", Mode: networkv1.PortMode_User}
	if err := engine.Start(t.Context(), unplugged); err == nil {
		t.Error("a port without an address is taken")
	}
}

func TestEngineMoves(t *testing.T) {
	migrationtest.Run(t, func(t *testing.T) migrationtest.Subject {
		engine := open(t)
		return migrationtest.Subject{
			Engine: engine,
			Start: func(t *testing.T, uid string) *networkv1.Port {
				wanted := instance(t, uid)
				if err := engine.Start(t.Context(), wanted); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := engine.Kill(context.WithoutCancel(t.Context()), uid); err != nil {
						t.Error(err)
					}
				})
				return wanted.Port
			},
			Works: func(t *testing.T, uid string) { works(t, engine, uid) },
		}
	})
}

// works types into the guest, which answers.
func works(t *testing.T, engine *local.Engine, uid string) {
	t.Helper()
	sight, err := engine.Look(t.Context(), uid)
	if err != nil || sight.State != machine.Running || sight.Moving {
		t.Fatalf("%+v, %v", sight, err)
	}
	line, err := engine.Console(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	<-line.Connected()
	viewer, err := line.Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	const word = "moved?"
	if _, err := viewer.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(said.String(), word); said.Write(one) {
		if _, err := viewer.Read(one); err != nil {
			t.Fatal(err)
		}
	}
}
