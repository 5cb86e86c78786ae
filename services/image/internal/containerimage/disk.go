package containerimage

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"
	"strings"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/failure"
)

// disk is the one disk of an image. Layers are read once, from the highest down,
// as the higher hide what the lower have; the disk is given out on the way, and
// the rest is read for a second one.
type disk struct {
	layers []layer
	open   func(layer) (*blob, error)
	limit  int64

	archive *archive // the layer at hand, nil for a bare one
	bare    *blob
	content io.Reader // the disk, from find on
	name    string
	bytes   int64

	hidden shadow // by layers above the one at hand
	own    shadow // by the one at hand
	ended  error  // sticky
}

// find reads up to the disk.
func (d *disk) find() error {
	d.hidden, d.own = newShadow(), newShadow()
	if len(d.layers) == 1 && d.layers[0].bare {
		bare, err := d.open(d.layers[0])
		if err != nil {
			return err
		}
		d.bare, d.content, d.bytes = bare, bare, bare.bytes
		return nil
	}
	header, err := d.next()
	if errors.Is(err, io.EOF) {
		return failure.Terminalf(ReasonNoDisk, "the image has no file below /%s", diskDir)
	}
	if err != nil {
		return err
	}
	return d.begin(header)
}

// begin makes an entry the disk.
func (d *disk) begin(header *tar.Header) error {
	if header.Size > d.limit {
		return failure.Terminalf(decompress.ReasonTooLarge, "/%s is larger than the %d bytes that are allowed", d.name, d.limit)
	}
	content := bufio.NewReaderSize(d.archive, 64<<10)
	head, err := content.Peek(decompress.MagicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return broken(err)
	}
	if inner := decompress.Detect(head); inner != decompress.None && d.archive.compression != decompress.None {
		return failure.Terminalf(decompress.ReasonNested, "/%s is packed twice: %s in a %s layer", d.name, inner, d.archive.compression)
	}
	d.content, d.bytes = content, header.Size
	return nil
}

// read gives the disk's bytes, and io.EOF when the whole image was read and has no
// second one.
func (d *disk) read(p []byte) (int, error) {
	if d.ended != nil {
		return 0, d.ended
	}
	n, err := d.content.Read(p)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		err = broken(err)
	case d.bare == nil:
		err = d.finish()
	}
	d.ended = err
	return n, err
}

// finish reads the rest of the image.
func (d *disk) finish() error {
	first := d.name
	_, err := d.next()
	if err == nil {
		return failure.Terminalf(ReasonTwoDisks, "the image has two files below /%s: /%s and /%s", diskDir, first, d.name)
	}
	return err
}

// next goes on to the next file below /disk that can be seen; io.EOF after the
// last layer.
func (d *disk) next() (*tar.Header, error) {
	for {
		if d.archive == nil {
			if err := d.descend(); err != nil {
				return nil, err
			}
		}
		header, err := d.archive.Next()
		if errors.Is(err, io.EOF) {
			if err := d.leave(); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, broken(err)
		}
		found, err := d.judge(header)
		if err != nil || found {
			return header, err
		}
	}
}

// descend opens the highest layer that was not read yet.
func (d *disk) descend() error {
	if len(d.layers) == 0 {
		return io.EOF
	}
	last := len(d.layers) - 1
	b, err := d.open(d.layers[last])
	if err != nil {
		return err
	}
	d.layers = d.layers[:last]
	if d.archive, err = openArchive(b, d.limit); err != nil {
		b.close()
	}
	return err
}

// leave ends a layer: only now is it known to be what its digest says.
func (d *disk) leave() error {
	err := d.archive.drain()
	d.archive.close()
	d.archive = nil
	if err != nil {
		return broken(err)
	}
	d.hidden.join(d.own)
	d.own = newShadow()
	return nil
}

// judge reports whether an entry is a disk.
func (d *disk) judge(header *tar.Header) (bool, error) {
	name, err := clean(header.Name)
	if err != nil {
		return false, err
	}
	gone, err := d.own.note(name)
	if err != nil || gone || d.hidden.hides(name) {
		return false, err
	}
	below := strings.HasPrefix(name, diskDir+"/")
	switch {
	case header.Typeflag == tar.TypeDir:
		return false, d.own.add(d.own.at, name)
	case !below && name != diskDir:
		return false, nil
	}
	if err := d.own.add(d.own.gone, name); err != nil {
		return false, err
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		d.name = name
		return below, nil // a file that is /disk itself only hides a directory
	case tar.TypeLink, tar.TypeSymlink:
		return false, failure.Terminalf(ReasonNotAFile, "/%s is a link to %q; the disk must be a file", name, header.Linkname)
	}
	return false, failure.Terminalf(ReasonNotAFile, "/%s is no file", name)
}

// close ends the connection.
func (d *disk) close() {
	if d.archive != nil {
		d.archive.close()
		d.archive = nil
	}
	if d.bare != nil {
		d.bare.close()
	}
}
