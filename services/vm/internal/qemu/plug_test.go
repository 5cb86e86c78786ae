package qemu_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
)

// spare is a disk that stands on another one, to be plugged in.
func (d *daemon) spare(id string) qemu.Disk {
	d.t.Helper()
	base := filepath.Join(d.options.DiskRoots[0], id+"-base.qcow2")
	run(d.t, "qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
	path := filepath.Join(d.t.TempDir(), id+".qcow2")
	run(d.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
	return qemu.Disk{ID: id, Serial: id, Path: path, Format: qemu.FormatQCOW2, Medium: qemu.MediumDisk, Label: "spare " + id}
}

func (d *daemon) plug(disk qemu.Disk) {
	d.t.Helper()
	if err := d.Plug(d.t.Context(), machineID, disk); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) unplug(disk string) {
	d.t.Helper()
	if err := d.Unplug(d.t.Context(), machineID, disk); err != nil {
		d.t.Fatal(err)
	}
}

// wantPlugged says which disks QEMU has, and at which places.
func (d *daemon) wantPlugged(want map[string]int) qemu.Machine {
	d.t.Helper()
	m, err := d.find().Present(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if len(m.Plugged) != len(want) {
		d.t.Errorf("plugged in are %v, want %v", m.Plugged, want)
	}
	for _, disk := range m.Plugged {
		if want[disk.ID] != disk.Slot || disk.Label != "spare "+disk.ID {
			d.t.Errorf("plugged in is %+v, want %v", disk, want)
		}
	}
	return m
}

func TestDisksArePluggedAndUnplugged(t *testing.T) {
	d := newDaemon(t)
	d.start(d.machine())
	first, second, cdrom := d.spare("first"), d.spare("second"), d.spare("cdrom")
	cdrom.Path, cdrom.Format, cdrom.Medium = filepath.Join(t.TempDir(), "some.iso"), qemu.FormatRaw, qemu.MediumCDROM
	if err := os.WriteFile(cdrom.Path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d.plug(first)
	d.plug(first) // again is no harm
	d.plug(second)
	d.plug(cdrom)
	d.wantPlugged(map[string]int{"first": 64, "second": 65, "cdrom": 128})

	d.restart()
	d.plug(second)
	d.unplug("first")
	d.unplug("first")
	d.wantPlugged(map[string]int{"second": 65, "cdrom": 128})
	d.plug(first)
	m := d.wantPlugged(map[string]int{"first": 64, "second": 65, "cdrom": 128})
	if err := d.find().Grow(t.Context(), "first", 16<<20); err != nil {
		t.Error(err)
	}

	// What was there is there from the beginning in the next process.
	if err := errors.Join(d.Kill(t.Context(), machineID), d.Remove(t.Context(), machineID)); err != nil {
		t.Fatal(err)
	}
	d.start(m)
	d.wantPlugged(map[string]int{"first": 64, "second": 65, "cdrom": 128})
	d.unplug("second")
	d.unplug("cdrom")
	d.wantPlugged(map[string]int{"first": 64})
	run(t, "qemu-img", "resize", "-q", second.Path, "+1M") // nobody has it
}

func TestAPlugThatQEMURefusesIsFinishedByTheNext(t *testing.T) {
	d := newDaemon(t)
	d.start(d.machine())
	disk := d.spare("first")
	file, err := os.OpenFile(disk.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lock := &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, lock); err != nil {
		t.Fatal(err)
	}
	// What the disk stands on is open by now, and it itself is not.
	var refusal *qmp.Error
	if err := d.Plug(t.Context(), machineID, disk); !errors.As(err, &refusal) {
		t.Fatalf("a disk that another process has is plugged in: %v", err)
	}
	d.wantPlugged(nil)
	lock.Type = unix.F_UNLCK
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, lock); err != nil {
		t.Fatal(err)
	}
	d.restart()
	d.plug(disk)
	d.wantPlugged(map[string]int{"first": 64})
	d.unplug("first")
}

func TestWhatCanNotBePluggedIsInvalid(t *testing.T) {
	d := newDaemon(t)
	if err := d.Plug(t.Context(), machineID, d.spare("first")); !errors.Is(err, qemu.ErrNotFound) {
		t.Errorf("a machine that isn't there: %v", err)
	}
	m := d.machine()
	m.Devices = qemu.DevicesEmulated
	d.start(m)
	for name, disk := range map[string]qemu.Disk{
		"to emulated devices":    d.spare("first"),
		"as one that is there":   {ID: "disk0", Path: "/x", Format: qemu.FormatRaw, Medium: qemu.MediumDisk},
		"with no format":         {ID: "first", Path: "/x", Medium: qemu.MediumDisk},
		"with a label too large": {ID: "first", Path: "/x", Format: qemu.FormatRaw, Medium: qemu.MediumDisk, Label: string(make([]byte, 200))},
	} {
		if err := d.Plug(t.Context(), machineID, disk); !errors.Is(err, qemu.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
