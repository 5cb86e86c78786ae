package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// diskWriter is a guest of 63 bytes that writes its disk from sector 64 on, 32 KiB
// at a time, by its BIOS. It says '.' for each, and 'X' for each that failed.
//
//	      xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax; mov sp,0x7c00; mov [drive],dl
//	next: mov dl,[drive]; mov ah,0x43; xor al,al; mov si,packet; int 0x13
//	      mov al,'X'; jc say; add dword [packet+8],64; mov al,'.'
//	say:  mov dx,0x3f8; out dx,al; jmp next
//	packet: 16, 0, 64 sectors, from 0:0x7c00, to sector 64
//	drive:  0
var diskWriter = []byte{
	0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0x88,
	0x16, 0x3e, 0x7c, 0x8a, 0x16, 0x3e, 0x7c, 0xb4, 0x43, 0x30, 0xc0, 0xbe,
	0x2e, 0x7c, 0xcd, 0x13, 0xb0, 0x58, 0x72, 0x08, 0x66, 0x83, 0x06, 0x36,
	0x7c, 0x40, 0xb0, 0x2e, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xe1, 0x10, 0x00,
	0x40, 0x00, 0x00, 0x7c, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,
	0x00, 0x00, 0x00,
}

// small mounts a file system of that size, which goes with the test.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("mounting a small file system takes rights")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// is waits until the machine's state is that one.
func (c *crashed) is(want State) *Process {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patient)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := c.Find(ctx, crashID)
		if err != nil {
			c.t.Fatal(err)
		}
		state, err := p.State(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		if state == want {
			return p
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("it is %s, not %s", state, want)
		case <-tick.C:
		}
	}
}

func TestAGuestWithoutSpaceStandsStillAndGoesOnWhenThereIsSome(t *testing.T) {
	c := newCrashed(t)
	dir := small(t, "8m")
	path := filepath.Join(dir, "disk.raw")
	sector := make([]byte, 64<<20)
	copy(sector, diskWriter)
	sector[510], sector[511] = 0x55, 0xaa
	if err := errors.Join(os.WriteFile(path, sector[:512], 0o600), os.Truncate(path, int64(len(sector)))); err != nil {
		t.Fatal(err)
	}
	c.machine.Disks = []Disk{{ID: "disk0", Label: "virtualdisk/root", Path: path, Format: FormatRaw, Medium: MediumDisk, BootIndex: 1}}
	if _, err := c.Start(t.Context(), c.machine); err != nil {
		t.Fatal(err)
	}
	c.is(StateIOError)
	c.restart() // and another daemon finds it so
	p := c.is(StateIOError)
	stalled, err := p.Stalled(t.Context())
	if err != nil || len(stalled) != 1 || stalled[0] != (Stalled{Label: "virtualdisk/root", NoSpace: true}) {
		t.Errorf("it stands still for %v, %v", stalled, err)
	}
	if err := c.GoOn(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	c.is(StateIOError) // without space nothing is tried
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=128m"); err != nil {
		t.Fatal(err)
	}
	if err := c.GoOn(t.Context(), crashID); err != nil {
		t.Fatal(err)
	}
	p = c.is(StateRunning)
	if !p.folder().has(clockFile) {
		t.Error("nobody is told that its clock is behind")
	}
	viewer, err := p.Console().Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.Close()
	late := time.AfterFunc(patient, func() { _ = viewer.Close() })
	defer late.Stop()
	// No write failed until the disk ended: what was held up was done.
	heard := make([]byte, 4<<10)
	for written := 0; ; {
		n, err := viewer.Read(heard)
		if err != nil {
			t.Fatalf("the guest says nothing: %v", err)
		}
		for _, said := range heard[:n] {
			if said == 'X' {
				if end := int64(len(sector))/(64*512) - 1; int64(written) > end {
					t.Errorf("%d of %d were written", written, end)
				}
				c.wantWritten(path, sector[:63])
				return
			}
			written++
		}
	}
}

// wantWritten looks at each piece that the guest wrote.
func (c *crashed) wantWritten(path string, want []byte) {
	c.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	for at := 64 * 512; at+64*512 <= len(content); at += 64 * 512 {
		if content[at] != want[0] || content[at+1] != want[1] {
			c.t.Fatalf("nothing was written at byte %d", at)
		}
	}
}
