// Package decompress unpacks what an image comes packed in: gzip, xz or zstd,
// one layer of it, in bounded memory and up to a bounded size.
//
// It owns the choice by magic and the bounds. It must not know what is inside.
package decompress

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"orlop.dev/services/image/internal/failure"
)

// Why unpacking fails.
const (
	ReasonUnsupported failure.Reason = "UnsupportedCompression"
	ReasonNested      failure.Reason = "NestedCompression"
	ReasonDictionary  failure.Reason = "CompressionDictionaryTooLarge"
	ReasonCorrupt     failure.Reason = "CorruptCompression"
	ReasonTooLarge    failure.Reason = "UnpackedSizeTooLarge"
)

// Compression is the name of a compression format.
type Compression string

// The formats; None is data as it is.
const (
	None Compression = ""
	Gzip Compression = "gzip"
	XZ   Compression = "xz"
	Zstd Compression = "zstd"
	// The rest is known in order to be refused by name.
	bzip2 Compression = "bzip2"
	lz4   Compression = "lz4"
	lzip  Compression = "lzip"
	unixZ Compression = "compress"
)

const (
	// MaxDictionaryBytes bounds xz dictionaries and zstd windows.
	MaxDictionaryBytes = 64 << 20
	// MagicBytes is how much Detect wants to see.
	MagicBytes = 6
)

var magics = []struct {
	prefix      string
	compression Compression
}{
	{"\x1f\x8b\x08", Gzip},
	{"\xfd7zXZ\x00", XZ},
	{"\x28\xb5\x2f\xfd", Zstd},
	{"BZh", bzip2},
	{"\x04\x22\x4d\x18", lz4},
	{"LZIP", lzip},
	{"\x1f\x9d", unixZ},
}

// Detect names the compression of a stream by its first bytes.
func Detect(head []byte) Compression {
	for _, m := range magics {
		if strings.HasPrefix(string(head[:min(len(head), MagicBytes)]), m.prefix) {
			return m.compression
		}
	}
	return None
}

// Reader reads what a stream unpacks to. Its failures are classified; errors of
// the stream below pass as they are.
type Reader struct {
	in    *watched
	out   io.Reader
	close func()
	kind  Compression
	left  int64
	limit int64
	err   error
}

// NewReader unpacks r, which is packed by kind. At most limit bytes come out;
// more is a terminal failure, as is a second layer of compression inside.
func NewReader(r io.Reader, kind Compression, limit int64) (*Reader, error) {
	d := &Reader{in: &watched{r: r}, kind: kind, left: limit, limit: limit, close: func() {}}
	if err := d.open(bufio.NewReaderSize(d.in, 256<<10)); err != nil {
		return nil, d.classify(err)
	}
	inner := bufio.NewReaderSize(d.out, MagicBytes)
	head, err := inner.Peek(MagicBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		d.close()
		return nil, d.classify(err)
	}
	if nested := Detect(head); nested != None {
		d.close()
		return nil, failure.Terminalf(ReasonNested, "the file is packed twice: %s in %s", nested, kind)
	}
	d.out = inner
	return d, nil
}

func (d *Reader) open(in *bufio.Reader) (err error) {
	switch d.kind {
	case Gzip:
		d.out, err = gzip.NewReader(in)
	case XZ:
		// This decoder takes a bound for the dictionary and checks the index
		// by its hash; the more common one allocates whatever a block asks for.
		d.out, err = xz.NewReader(in, MaxDictionaryBytes)
	case Zstd:
		var z *zstd.Decoder
		z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(MaxDictionaryBytes))
		if err == nil {
			d.out, d.close = z, z.Close
		}
	default:
		err = failure.Terminalf(ReasonUnsupported, "the file is packed by %s; gzip, xz and zstd are supported", d.kind)
	}
	return err
}

// Read implements io.Reader. io.EOF means that the packed stream ended whole,
// its checksums right.
func (d *Reader) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.out.Read(p)
	if int64(n) > d.left {
		n = int(d.left)
		err = failure.Terminalf(ReasonTooLarge, "the file unpacks to more than the %d bytes that are allowed", d.limit)
	}
	d.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.classify(err)
	}
	d.err = err
	return n, err
}

// Close frees the decoder; it doesn't close the stream below.
func (d *Reader) Close() error {
	d.close()
	return nil
}

// classify tells a broken source from a broken file: what the stream below
// failed with is not the file's fault.
func (d *Reader) classify(err error) error {
	if d.in.err != nil && !errors.Is(d.in.err, io.EOF) {
		return d.in.err
	}
	if failure.ReasonOf(err) != "" {
		return err
	}
	if errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return failure.Terminalf(ReasonDictionary,
			"the file needs a %s dictionary above %d MiB; pack it with a smaller one (xz -9 or less)",
			d.kind, MaxDictionaryBytes>>20)
	}
	if errors.Is(err, xz.ErrOptions) || errors.Is(err, xz.ErrUnsupportedCheck) {
		return failure.Terminalf(ReasonUnsupported, "the file uses options of %s that are not supported", d.kind)
	}
	return &failure.Error{
		Class: failure.Terminal, Reason: ReasonCorrupt, Cause: err,
		Message: "the file is no whole " + string(d.kind) + " stream",
	}
}

// watched remembers how the stream below failed.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil {
		w.err = err
	}
	return n, err
}
