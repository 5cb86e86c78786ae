package dvcr

import (
	"context"
	"errors"
	"hash"
	"io"
	"os"
)

// pipeline moves bytes from a source into a file and a hash: while one piece is
// read, the one before is written, and that before it hashed.
type pipeline struct {
	file   *os.File // nil to hash only
	hash   hash.Hash
	offset int64 // in the file
}

// piece is what was read at once, and how that ended.
type piece struct {
	data []byte
	err  error
}

// run moves at most n bytes. It returns io.EOF when r has ended before, errors of
// r as they are, and after the last byte has got to where it belongs. After an
// error the hash is of no use.
func (p *pipeline) run(ctx context.Context, r io.Reader, n int64) error {
	free, filled, written := make(chan []byte, pieces), make(chan piece, pieces), make(chan []byte, pieces)
	for range min(pieces, n/pieceBytes+1) {
		free <- make([]byte, pieceBytes)
	}
	ctx, stop := context.WithCancel(ctx)
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		for data := range written {
			p.hash.Write(data)
			free <- data[:cap(data)]
		}
	}()
	go read(ctx, r, n, free, filled)
	err := p.store(filled, written)
	stop()
	for range filled { // until who reads has ended: the source is the caller's then
	}
	close(written)
	<-hashed
	return err
}

// read fills pieces until n bytes were read, the source ends, or ctx does.
func read(ctx context.Context, r io.Reader, n int64, free <-chan []byte, filled chan<- piece) {
	defer close(filled)
	for n > 0 {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			filled <- piece{err: ctx.Err()}
			return
		}
		got, err := fill(ctx, r, buf[:min(n, int64(len(buf)))])
		n -= int64(got)
		filled <- piece{data: buf[:got], err: err}
		if err != nil {
			return
		}
	}
}

// fill is io.ReadFull that keeps the source's own errors.
func fill(ctx context.Context, r io.Reader, buf []byte) (int, error) {
	for got := 0; ; {
		n, err := r.Read(buf[got:])
		got += n
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || got == len(buf) {
			return got, err
		}
	}
}

// store writes pieces and hands them on, to the first error.
func (p *pipeline) store(filled <-chan piece, written chan<- []byte) error {
	begun := p.offset
	for piece := range filled {
		if p.file != nil {
			if _, err := p.file.WriteAt(piece.data, p.offset); err != nil {
				return local(err)
			}
		}
		p.offset += int64(len(piece.data))
		written <- piece.data
		if p.file != nil && p.offset-begun >= writeBackBytes {
			startWriting(p.file, begun, p.offset-begun)
			begun = p.offset
		}
		if piece.err != nil && !errors.Is(piece.err, io.EOF) {
			return piece.err
		}
		if piece.err != nil {
			return io.EOF
		}
	}
	return nil
}
