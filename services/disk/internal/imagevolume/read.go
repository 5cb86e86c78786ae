package imagevolume

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
)

const pieceBytes = 512 << 10

// ReadImageVolume implements diskv1.ImageVolumeServiceServer. A file is read as it
// is, a layer with all below it as a qcow2.
func (s *Service) ReadImageVolume(r *diskv1.ReadImageVolumeRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	name := holdName(r.GetOwnerUid())
	held, found, err := s.options.Volumes.Held(stream.Context(), name)
	if err != nil {
		return err
	}
	if !found || held.Lost {
		return fault.New(fault.NotReady, reasonImage, "the image has no volume")
	}
	if held.Layer == "" {
		return sendFile(held.Path, held.Digest, r, stream)
	}
	content, err := s.options.Volumes.HeldContent(stream.Context(), name)
	if err != nil {
		return failure(err)
	}
	return s.options.Exports.ReadContent(content, &diskv1.ReadDiskExportRequest{Offset: r.GetOffset(), Etag: r.GetEtag()}, stream)
}

// sendFile streams a file whose content its digest names.
func sendFile(path, digest string, r *diskv1.ReadImageVolumeRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(err, fault.NotReady, reasonImage, "the image has no volume")
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if r.GetEtag() != "" && r.GetEtag() != digest || r.GetOffset() < 0 || r.GetOffset() > info.Size() {
		return fault.New(fault.Stale, "DiskChanged", "the image has changed since: begin anew")
	}
	told := &diskv1.DiskExport{SizeBytes: info.Size(), Etag: digest}
	if err := stream.Send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_File{File: told}}); err != nil {
		return err
	}
	for offset := r.GetOffset(); offset < info.Size(); {
		// Each piece is a buffer of its own: the stream may still have the last one.
		b := make([]byte, min(pieceBytes, info.Size()-offset))
		n, err := file.ReadAt(b, offset)
		if err != nil && !errors.Is(err, io.EOF) || n == 0 {
			return fault.Wrap(err, fault.Transient, reasonNotOnDisks, "the image's volume can't be read")
		}
		if err := stream.Send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_Data{Data: b[:n]}}); err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}
