// Package diskimage reads the headers and allocation tables of disk images:
// qcow2, vmdk, vdi, ISO 9660 and raw. It says what an image is and refuses one
// that leans on other files, is cut short, or claims more than it may.
//
// It owns no storage and runs no tool: an image is an io.ReaderAt, and nothing
// that the image says of itself is believed before it is checked. It must not
// know where images come from or go to.
package diskimage

import (
	"bytes"
	"context"
	"errors"
	"io"

	"orlop.dev/services/image/internal/failure"
)

// Format is the name of a disk format, in the words of qemu's format drivers,
// but for ISO.
type Format string

// The formats.
const (
	QCOW2 Format = "qcow2"
	VMDK  Format = "vmdk"
	VDI   Format = "vdi"
	ISO   Format = "iso"
	Raw   Format = "raw"
)

// DefaultVirtualBytes is the largest disk accepted where Limits says nothing.
const DefaultVirtualBytes = 16 << 40

const sectorBytes = 512

// Limits bounds what an image may claim.
type Limits struct {
	// VirtualBytes is the largest size of the disk as a guest sees it, in
	// bytes; 0 means DefaultVirtualBytes.
	VirtualBytes int64
}

// Disk is the largest disk, in bytes.
func (l Limits) Disk() int64 {
	if l.VirtualBytes > 0 {
		return l.VirtualBytes
	}
	return DefaultVirtualBytes
}

// File is the largest file of an image, in bytes: it has tables beside its disk.
func (l Limits) File() int64 { return l.Disk() + l.Disk()/64 + 64<<20 }

// Info is what an image turned out to be.
type Info struct {
	Format Format
	// VirtualBytes is the size of the disk as a guest sees it.
	VirtualBytes int64
	// CDROM is set for images that a guest sees as an optical disc.
	CDROM bool
}

// Inspect reads an image of size bytes through its tables to the last
// reference. A refusal is a terminal *failure.Error with one of this package's
// reasons; any other error is the reader's or the context's own.
//
// It holds at most a few hundred KiB in memory, and reads no more table bytes
// than the file has, whatever the image claims.
func Inspect(ctx context.Context, r io.ReaderAt, size int64, limits Limits) (Info, error) {
	if size <= 0 {
		return Info{}, failure.Terminalf(ReasonEmpty, "the image is empty")
	}
	head := make([]byte, min(size, HeadBytes))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return Info{}, err
	}
	format, err := Detect(head)
	if err != nil {
		return Info{}, err
	}
	f := &file{ctx: ctx, r: r, size: uint64(size), limits: limits}
	return inspectors[format](f)
}

// inspectors is read only.
var inspectors = map[Format]func(*file) (Info, error){
	QCOW2: inspectQCOW2,
	VMDK:  inspectVMDK,
	VDI:   inspectVDI,
	ISO:   inspectISO,
	Raw:   inspectRaw,
}

// Screen judges an image by its first bytes (HeadBytes of them, or all if the
// image is smaller), so that what can't be accepted is refused before it is
// fetched. What the head can't tell is left to Inspect.
func Screen(head []byte, limits Limits) (Format, error) {
	if len(head) == 0 {
		return "", failure.Terminalf(ReasonEmpty, "the image is empty")
	}
	format, err := Detect(head)
	if err != nil {
		return "", err
	}
	f := &file{ctx: context.Background(), r: bytes.NewReader(head), size: uint64(len(head)), limits: limits}
	switch format {
	case QCOW2:
		_, err = parseQCOW2(f)
	case VMDK:
		_, err = parseVMDK(f)
	case VDI:
		_, err = parseVDI(f)
	}
	if failure.ReasonOf(err) == ReasonTruncated {
		err = nil
	}
	return format, err
}

// info is the shared end of every inspector: the claimed size is checked
// against the limit.
func (f *file) info(format Format, virtual uint64) (Info, error) {
	if err := f.checkVirtual(virtual); err != nil {
		return Info{}, err
	}
	return Info{Format: format, VirtualBytes: int64(virtual), CDROM: format == ISO}, nil
}

func (f *file) checkVirtual(virtual uint64) error {
	limit := f.limits.Disk()
	if virtual == 0 {
		return failure.Terminalf(ReasonEmpty, "the image holds a disk of 0 bytes")
	}
	if virtual > uint64(limit) {
		return failure.Terminalf(ReasonTooLarge,
			"the image holds a disk of %d bytes, more than the %d that are allowed", virtual, limit)
	}
	return nil
}
