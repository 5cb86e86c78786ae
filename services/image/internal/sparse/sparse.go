// Package sparse turns a raw disk, read once from start to end, into a qcow2
// file that leaves out what is zero.
//
// It owns the layout of that file. It must not know where the disk comes from
// or where the file goes.
package sparse

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"orlop.dev/services/image/internal/failure"
)

// ReasonTooLarge names a disk larger than allowed.
const ReasonTooLarge failure.Reason = "VirtualSizeTooLarge"

// File is where the qcow2 goes. *os.File is one.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// State is what a Writer needs to go on in another process, together with its
// file. It grows by one number for each 512 MiB of disk.
type State struct {
	// Offset is how many bytes of the disk are in the file.
	Offset int64 `json:"offset"`
	// Used is how many clusters of the file are taken.
	Used int64 `json:"used"`
	// L1 are the clusters of the L2 tables; 0 for none.
	L1 []int64 `json:"l1,omitempty"`
}

// StoredBytes is the least size of the file at this state.
func (s State) StoredBytes() int64 {
	if s.Used <= 1 { // the header's cluster, not written yet
		return 0
	}
	return s.Used << clusterBits
}

// Result is what was written.
type Result struct {
	// VirtualBytes is the size of the disk: the bytes read, rounded up to a
	// sector.
	VirtualBytes int64
	// StoredBytes is the size of the file.
	StoredBytes int64
}

// Writer takes a raw disk by ReadFrom and makes the file whole by Finish. It
// holds a mebibyte in memory. Before Finish the file has no header, so that
// no one takes a half of it for an image.
type Writer struct {
	file  File
	limit int64

	state State
	l2    [l2Entries]uint64 // of the region that Offset is in
	tail  bool              // a part of a cluster came: the disk has ended
}

// NewWriter starts a file that is empty. limit bounds the disk's size in bytes.
func NewWriter(f File, limit int64) *Writer {
	return &Writer{file: f, limit: limit, state: State{Used: 1}}
}

// Resume goes on with a file at the state that its Writer once saved. Later
// writes to the file don't matter: they are written over.
func Resume(f File, limit int64, s State) (*Writer, error) {
	if s.Offset < 0 || s.Offset%clusterBytes != 0 || s.Used < 1 || int64(len(s.L1)) != regions(s.Offset) {
		return nil, fmt.Errorf("sparse: no writer saved state at offset %d", s.Offset)
	}
	w := &Writer{file: f, limit: limit, state: s}
	w.state.L1 = append([]int64(nil), s.L1...)
	if s.Offset%(l2Entries*clusterBytes) == 0 || s.L1[len(s.L1)-1] == 0 {
		return w, nil
	}
	table := make([]byte, clusterBytes)
	if _, err := f.ReadAt(table, s.L1[len(s.L1)-1]<<clusterBits); err != nil {
		return nil, err
	}
	for i := range (s.Offset >> clusterBits) % l2Entries {
		w.l2[i] = binary.BigEndian.Uint64(table[i*8:])
	}
	return w, nil
}

// regions is how many L2 tables cover n bytes of the disk.
func regions(n int64) int64 { return (n + l2Entries*clusterBytes - 1) / (l2Entries * clusterBytes) }

// Offset returns how many bytes of the disk were taken.
func (w *Writer) Offset() int64 { return w.state.Offset }

// Append takes at most n bytes of the disk from r, n being a multiple of
// 64 KiB. It returns io.EOF when r has ended; errors of r pass as they are.
func (w *Writer) Append(ctx context.Context, r io.Reader, n int64) error {
	buf := make([]byte, readBytes)
	for end := w.state.Offset + n; w.state.Offset < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := io.ReadFull(r, buf[:min(readBytes, end-w.state.Offset)])
		if failed := w.clusters(buf, got); failed != nil {
			return failed
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && got > 0 {
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clusters takes got bytes of buf, which is a whole number of clusters long.
func (w *Writer) clusters(buf []byte, got int) error {
	for at := 0; at < got; at += clusterBytes {
		cluster := buf[at : at+clusterBytes]
		has := min(got-at, clusterBytes)
		clear(cluster[has:])
		if err := w.cluster(cluster, has); err != nil {
			return err
		}
	}
	return nil
}

// cluster takes the next cluster, of which got bytes belong to the disk.
func (w *Writer) cluster(buf []byte, got int) error {
	if w.tail {
		return errors.New("sparse: data after the end of the disk")
	}
	if w.state.Offset+int64(got) > w.limit {
		return failure.Terminalf(ReasonTooLarge, "the disk has more than the %d bytes that are allowed", w.limit)
	}
	index := (w.state.Offset >> clusterBits) % l2Entries
	if index == 0 {
		if err := w.flush(); err != nil {
			return err
		}
		w.state.L1 = append(w.state.L1, 0)
		clear(w.l2[:])
	}
	if !isZero(buf) {
		if err := w.store(index, buf); err != nil {
			return err
		}
	}
	w.state.Offset += int64(got)
	w.tail = got < clusterBytes
	return nil
}

func (w *Writer) store(index int64, buf []byte) error {
	table := &w.state.L1[len(w.state.L1)-1]
	if *table == 0 {
		*table = w.state.Used
		w.state.Used++
	}
	at := w.state.Used << clusterBits
	if _, err := w.file.WriteAt(buf, at); err != nil {
		return err
	}
	w.state.Used++
	w.l2[index] = uint64(at) | copied
	return nil
}

// flush writes the L2 table of the current region.
func (w *Writer) flush() error {
	if len(w.state.L1) == 0 || w.state.L1[len(w.state.L1)-1] == 0 {
		return nil
	}
	table := make([]byte, clusterBytes)
	for i, entry := range w.l2 {
		binary.BigEndian.PutUint64(table[i*8:], entry)
	}
	_, err := w.file.WriteAt(table, w.state.L1[len(w.state.L1)-1]<<clusterBits)
	return err
}

// Save writes what is in memory to the file and returns the state to resume
// from. The caller makes the file durable before it stores the state.
func (w *Writer) Save() (State, error) {
	if w.tail {
		return State{}, errors.New("sparse: the disk has ended; finish it")
	}
	if err := w.flush(); err != nil {
		return State{}, err
	}
	s := w.state
	s.L1 = append([]int64(nil), s.L1...)
	return s, nil
}

// Finish writes the tables, then the header. It may be called again after a
// failure.
func (w *Writer) Finish() (Result, error) {
	if err := w.flush(); err != nil {
		return Result{}, err
	}
	virtual := (w.state.Offset + sectorBytes - 1) / sectorBytes * sectorBytes
	p := plan(virtual, int64(len(w.state.L1)), w.state.Used)
	if err := w.writeL1(p); err != nil {
		return Result{}, err
	}
	if err := w.writeRefcounts(p); err != nil {
		return Result{}, err
	}
	if _, err := w.file.WriteAt(p.header(), 0); err != nil {
		return Result{}, err
	}
	return Result{VirtualBytes: virtual, StoredBytes: p.end << clusterBits}, nil
}

func (w *Writer) writeL1(p layout) error {
	table := make([]byte, max(1, clusters(p.l1Entries*8))<<clusterBits)
	for i, cluster := range w.state.L1 {
		if cluster != 0 {
			binary.BigEndian.PutUint64(table[i*8:], uint64(cluster<<clusterBits)|copied)
		}
	}
	_, err := w.file.WriteAt(table, p.l1At<<clusterBits)
	return err
}

// writeRefcounts counts each cluster of the file once.
func (w *Writer) writeRefcounts(p layout) error {
	table := make([]byte, p.refTableLen<<clusterBits)
	for i := range p.refBlocks {
		binary.BigEndian.PutUint64(table[i*8:], uint64((p.refBlocksAt+i)<<clusterBits))
	}
	if _, err := w.file.WriteAt(table, p.refTableAt<<clusterBits); err != nil {
		return err
	}
	block := make([]byte, clusterBytes)
	for i := range p.refBlocks {
		for j := range int64(refEntries) {
			count := uint16(0)
			if i*refEntries+j < p.end {
				count = 1
			}
			binary.BigEndian.PutUint16(block[j*2:], count)
		}
		if _, err := w.file.WriteAt(block, (p.refBlocksAt+i)<<clusterBits); err != nil {
			return err
		}
	}
	return nil
}

// zeros is read only.
var zeros [4096]byte

// isZero compares by pieces that stay in the first-level cache; most clusters
// with data differ in the first.
func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
