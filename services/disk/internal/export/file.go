package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sort"

	"orlop.dev/services/disk/internal/chain"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/qcow2"
)

// Formats that disks are exported in.
const (
	formatQCOW2 = "qcow2"
	formatRaw   = "raw"
)

const (
	pieceBytes = 512 << 10
	// holeBytes bounds a piece without data: it costs its digest all the same.
	holeBytes = 256 << 20
)

// file is a disk as a file that could be read: what is in it is known, and
// nothing was read yet.
type file struct {
	content layer.Content
	runs    []qcow2.Run
	plan    *qcow2.Plan // nil for raw
}

func newFile(ctx context.Context, content layer.Content, format string) (*file, error) {
	runs, _, err := content.Files.Allocated(ctx, chain.Usual)
	if err != nil {
		return nil, err
	}
	f := &file{content: content, runs: runs}
	if format == formatQCOW2 {
		f.plan, err = qcow2.New(content.VirtualBytes, runs, nil)
	}
	return f, err
}

func (f *file) bytes() int64 {
	if f.plan != nil {
		return f.plan.Bytes()
	}
	return f.content.VirtualBytes
}

// etag changes with the content and with the format.
func (f *file) etag(format string) string {
	sum := sha256.Sum256([]byte(format + " " + f.content.Version))
	return hex.EncodeToString(sum[:16])
}

// sink takes a file in order.
type sink interface {
	data(b []byte) error
	zeros(count int64) error
}

// send hands a part of the file to sinks. It ends with ctx.
func (f *file) send(ctx context.Context, from, to int64, sinks ...sink) error {
	disk, err := chain.Open(ctx, f.content.Files, chain.Usual)
	if err != nil {
		return err
	}
	defer disk.Close()
	var source io.ReaderAt = disk
	if f.plan != nil {
		source = f.plan.Reader(disk)
	}
	for from < to {
		empty, until := f.next(from, to)
		for _, s := range sinks {
			if empty {
				err = s.zeros(until - from)
			}
			if err != nil {
				return err
			}
		}
		if !empty {
			// Each piece is a buffer of its own: who took it may still have it.
			b := make([]byte, until-from)
			if _, err := source.ReadAt(b, from); err != nil {
				return err
			}
			for _, s := range sinks {
				if err := s.data(b); err != nil {
					return err
				}
			}
		}
		from = until
	}
	return nil
}

// next is the piece of the file at an offset: where it ends, and whether it is
// known to be empty.
func (f *file) next(from, to int64) (empty bool, until int64) {
	if f.plan != nil {
		return false, min(to, from+pieceBytes)
	}
	i := sort.Search(len(f.runs), func(i int) bool { return (f.runs[i].First+f.runs[i].Count)*qcow2.ClusterBytes > from })
	if i == len(f.runs) {
		return true, min(to, from+holeBytes)
	}
	if first := f.runs[i].First * qcow2.ClusterBytes; first > from {
		return true, min(to, first, from+holeBytes)
	}
	return false, min(to, from+pieceBytes, (f.runs[i].First+f.runs[i].Count)*qcow2.ClusterBytes)
}

// digest is a sink that makes the SHA-256.
type digest struct{ hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

func (d digest) data(b []byte) error {
	_, err := d.Write(b)
	return err
}

// zeros implements sink.
func (d digest) zeros(count int64) error {
	nothing := make([]byte, min(count, pieceBytes))
	for ; count > 0; count -= int64(len(nothing)) {
		nothing = nothing[:min(count, int64(len(nothing)))]
		if _, err := d.Write(nothing); err != nil {
			return err
		}
	}
	return nil
}

func (d digest) hex() string { return hex.EncodeToString(d.Sum(nil)) }
