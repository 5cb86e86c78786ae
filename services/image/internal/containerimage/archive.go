package containerimage

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/failure"
)

// archive is a layer being unpacked.
type archive struct {
	*tar.Reader
	blob        *blob
	packed      *bufio.Reader // the blob
	plain       io.Reader     // what the archive is read from
	compression decompress.Compression
	done        func()
}

// openArchive finds out how a layer is packed by its first bytes: media types are
// not always right.
func openArchive(b *blob, limit int64) (*archive, error) {
	a := &archive{blob: b, packed: bufio.NewReaderSize(b, 256<<10), done: func() {}}
	head, err := a.packed.Peek(decompress.MagicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	a.compression = decompress.Detect(head)
	switch a.compression {
	case decompress.None:
		a.plain = a.packed
	case decompress.Gzip, decompress.Zstd:
		unpacked, err := decompress.NewReader(a.packed, a.compression, limit)
		if err != nil {
			return nil, err
		}
		a.plain, a.done = unpacked, func() { unpacked.Close() }
	default:
		return nil, failure.Terminalf(decompress.ReasonUnsupported,
			"a layer of the image is packed by %s; gzip, zstd and plain layers are supported", a.compression)
	}
	a.Reader = tar.NewReader(a.plain)
	return a, nil
}

// drain reads what stands behind the archive, which belongs to what the digest is
// of.
func (a *archive) drain() error {
	for _, rest := range []io.Reader{a.plain, a.packed} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) close() {
	a.done()
	a.blob.close()
}

// broken classifies an error of reading an archive: what has no class is the
// archive's own.
func broken(err error) error {
	if failure.ReasonOf(err) != "" {
		return err
	}
	return &failure.Error{Class: failure.Terminal, Reason: ReasonLayer, Message: "a layer of the image is no whole tar archive", Cause: err}
}
