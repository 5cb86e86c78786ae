package diskimage

import (
	"context"
	"errors"
	"io"

	"orlop.dev/services/image/internal/failure"
)

// scanBytes is how much of a table is in memory at a time.
const scanBytes = 64 << 10

// file is an image under inspection. Every read is checked against its size
// first, so that no claim of the image's can lead outside it.
type file struct {
	ctx    context.Context
	r      io.ReaderAt
	size   uint64
	limits Limits
}

// table is an array of equally wide entries in the file.
type table struct {
	name    string
	offset  uint64
	entries uint64
	width   uint64
}

// within refuses a range that ends past the end of the file.
func (f *file) within(name string, offset, length uint64) error {
	if offset > f.size || length > f.size-offset {
		return failure.Terminalf(ReasonTruncated,
			"the image is cut short: its %s at offset %d needs %d bytes, the file has %d", name, offset, length, f.size)
	}
	return nil
}

// read returns length bytes at offset. The caller bounds length.
func (f *file) read(name string, offset, length uint64) ([]byte, error) {
	if err := f.within(name, offset, length); err != nil {
		return nil, err
	}
	buf := make([]byte, length)
	return buf, f.fill(name, buf, offset)
}

func (f *file) fill(name string, buf []byte, offset uint64) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	n, err := f.r.ReadAt(buf, int64(offset))
	switch {
	case n == len(buf):
		return nil
	case errors.Is(err, io.EOF):
		// The size was promised, so the file got shorter under us.
		return failure.Terminalf(ReasonTruncated, "the image ends inside its %s at offset %d", name, offset+uint64(n))
	default:
		return err
	}
}

// scan shows each entry of t to visit, in order, in bounded memory.
func (f *file) scan(t table, visit func(index uint64, entry []byte) error) error {
	if t.entries > f.size/t.width {
		return failure.Terminalf(ReasonTruncated,
			"the image is cut short: its %s has %d entries, the file only %d bytes", t.name, t.entries, f.size)
	}
	if err := f.within(t.name, t.offset, t.entries*t.width); err != nil {
		return err
	}
	perRead := scanBytes / t.width
	buf := make([]byte, min(t.entries, perRead)*t.width)
	for first := uint64(0); first < t.entries; first += perRead {
		part := buf[:min(perRead, t.entries-first)*t.width]
		if err := f.fill(t.name, part, t.offset+first*t.width); err != nil {
			return err
		}
		for i := uint64(0); i*t.width < uint64(len(part)); i++ {
			if err := visit(first+i, part[i*t.width:(i+1)*t.width]); err != nil {
				return err
			}
		}
	}
	return nil
}

// budget bounds work by the file's size: things that can't overlap can't add up
// to more bytes than there are, so an image in which they do is made to keep
// its reader busy.
type budget struct {
	name string
	left uint64
}

func (b *budget) spend(n uint64) error {
	if n > b.left {
		return corrupt("the %s of the image overlap", b.name)
	}
	b.left -= n
	return nil
}

// ceilDiv returns a/b rounded up, without overflow.
func ceilDiv(a, b uint64) uint64 {
	q := a / b
	if a%b != 0 {
		q++
	}
	return q
}
