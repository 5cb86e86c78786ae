package diskservice

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// Why a disk can't be read, beside the reasons of package source.
const (
	ReasonUnavailable failure.Reason = "VirtualDiskUnavailable"
	ReasonRefused     failure.Reason = "VirtualDiskNotReady"
)

// patience is how long the disk service may send nothing: it maps a whole disk
// before the first byte.
const patience = 2 * time.Minute

// read begins to read a file from an offset on, of the version with that tag.
type read func(ctx context.Context, offset int64, etag string) (grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse], error)

func (c *Client) readVolume(imageUID string) read {
	return func(ctx context.Context, offset int64, etag string) (grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse], error) {
		return c.volumes.ReadImageVolume(ctx, &diskv1.ReadImageVolumeRequest{OwnerUid: imageUID, Offset: offset, Etag: etag})
	}
}

// file is an importer.Source.
type file struct {
	read read
	name string // for people
}

// Open implements importer.Source.
func (f file) Open(ctx context.Context, offset int64, v source.Validator) (importer.Stream, error) {
	etag := ""
	if offset > 0 {
		etag = v.ETag
	}
	s := &stream{caller: ctx, name: f.name, at: offset}
	ctx, s.cancel = context.WithCancel(ctx)
	var err error
	if s.pieces, err = f.read(ctx, offset, etag); err != nil {
		return nil, s.failed(err)
	}
	first, err := s.receive()
	if err != nil {
		return nil, s.failed(err)
	}
	s.told = first.GetFile()
	return s, nil
}

// stream is an importer.Stream.
type stream struct {
	caller context.Context
	cancel context.CancelFunc
	name   string
	pieces grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse]
	told   *diskv1.DiskExport

	at   int64
	left []byte
	// zeros come before what is left.
	zeros int64
}

// Size implements importer.Stream.
func (s *stream) Size() int64 { return s.told.GetSizeBytes() }

// Validator implements importer.Stream.
func (s *stream) Validator() source.Validator { return source.Validator{ETag: s.told.GetEtag()} }

// Close implements importer.Stream.
func (s *stream) Close() error {
	s.cancel()
	return nil
}

// Read implements io.Reader. io.EOF means that the file is whole.
func (s *stream) Read(p []byte) (int, error) {
	for s.zeros == 0 && len(s.left) == 0 {
		piece, err := s.receive()
		if errors.Is(err, io.EOF) && s.at == s.Size() {
			return 0, io.EOF
		}
		if err != nil {
			return 0, s.failed(err)
		}
		s.left, s.zeros = piece.GetData(), piece.GetZeroBytes()
	}
	n := 0
	if s.zeros > 0 {
		n = int(min(int64(len(p)), s.zeros))
		clear(p[:n])
		s.zeros -= int64(n)
	} else {
		n = copy(p, s.left)
		s.left = s.left[n:]
	}
	s.at += int64(n)
	return n, nil
}

// receive waits for the next piece, but not for ever.
func (s *stream) receive() (*diskv1.ReadDiskExportResponse, error) {
	watch := time.AfterFunc(patience, s.cancel)
	defer watch.Stop()
	return s.pieces.Recv()
}

// failed classifies an error, and ends the stream.
func (s *stream) failed(err error) error {
	s.cancel()
	if ended := s.caller.Err(); ended != nil {
		return ended
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	} else {
		err = fault.FromStatus(err)
	}
	switch {
	case fault.Is(err, fault.Stale):
		return failure.Temporaryf(source.ReasonChanged, nil, "%s has changed since", s.name)
	case fault.Is(err, fault.NotReady, fault.NotFound):
		return failure.Temporaryf(ReasonRefused, nil, "%s can't be read: %s", s.name, fault.From(err).Message)
	}
	return failure.Temporaryf(ReasonUnavailable, err, "%s can't be read for now", s.name)
}
