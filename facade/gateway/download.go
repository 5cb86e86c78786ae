package gateway

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
)

// downloads is the door for files that users fetch. The service judges who may.
//
// Ranges, If-Range and If-Match are as RFC 9110 has them. Where the SHA-256 is
// known Repr-Digest (RFC 9530) tells it; Want-Repr-Digest has it computed first.
type downloads struct {
	// ctx ends downloads under way: they can be gone on with.
	ctx    context.Context
	client exports
}

// exports is a diskv1.DiskExportServiceClient, or a diskv1.SnapshotExportServiceClient.
type exports = diskv1.DiskExportServiceClient

// downloadPattern is what the files of an export service are at: the folder of
// their descriptions.
func downloadPattern(service grpc.ServiceDesc) (string, error) {
	name := protoreflect.FullName(service.ServiceName).Name()
	method := diskv1.File_orlop_disk_v1_export_proto.Services().ByName(name).Methods().ByName("DescribeDiskExport")
	rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule.GetGet() == "" {
		return "", fmt.Errorf("%s has no route", method.FullName())
	}
	return "GET " + path.Dir(rule.GetGet()), nil
}

func (d *downloads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(r.Context(), "authorization", r.Header.Get("Authorization")))
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	query := r.URL.Query()
	for name := range query {
		if name != "format" {
			writeError(w, fault.Refuse(name, "FieldUnknown", "no parameter of a download"))
			return
		}
	}
	request := &diskv1.DescribeDiskExportRequest{
		Namespace: r.PathValue("namespace"), Name: r.PathValue("name"), Format: query.Get("format"),
	}
	describe := d.client.DescribeDiskExport
	if strings.Contains(r.Header.Get("Want-Repr-Digest"), "sha-256") {
		describe = d.client.DigestDiskExport
	}
	file, err := describe(ctx, request)
	if err != nil {
		writeError(w, err)
		return
	}
	showDownload(w.Header(), file)
	content := &downloaded{ctx: ctx, client: d.client, file: file}
	http.ServeContent(w, r, "", time.Time{}, content)
	content.close()
	if content.failed != nil {
		// Nothing but a broken connection says that the rest is missing.
		panic(http.ErrAbortHandler)
	}
}

// showDownload tells of the file in headers.
func showDownload(header http.Header, file *diskv1.DiskExport) {
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Disposition", mime.FormatMediaType("attachment",
		map[string]string{"filename": file.GetName() + "." + file.GetFormat()}))
	header.Set("ETag", `"`+file.GetEtag()+`"`)
	header.Set("Cache-Control", "no-store")
	if sum, err := hex.DecodeString(file.GetSha256()); err == nil && len(sum) > 0 {
		header.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":")
	}
}

// errWhence is a seek that means nothing.
var errWhence = errors.New("seek from nowhere")

// downloaded reads the file from any offset: it implements io.ReadSeeker for
// http.ServeContent.
type downloaded struct {
	ctx    context.Context
	client exports
	file   *diskv1.DiskExport
	offset int64

	// Of the stream that goes on at offset; none where end is nil.
	stream grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse]
	end    context.CancelFunc
	data   []byte
	zeros  int64
	failed error
}

// Seek implements io.Seeker.
func (d *downloaded) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += d.offset
	case io.SeekEnd:
		offset += d.file.GetSizeBytes()
	default:
		return 0, errWhence
	}
	if offset != d.offset {
		d.close()
		d.offset = offset
	}
	return offset, nil
}

// Read implements io.Reader.
func (d *downloaded) Read(b []byte) (int, error) {
	if d.offset >= d.file.GetSizeBytes() {
		return 0, io.EOF
	}
	for len(d.data) == 0 && d.zeros == 0 {
		if err := d.receive(); err != nil {
			d.failed = err
			return 0, err
		}
	}
	n := copy(b, d.data)
	d.data = d.data[n:]
	if n == 0 {
		n = int(min(d.zeros, int64(len(b))))
		clear(b[:n])
		d.zeros -= int64(n)
	}
	d.offset += int64(n)
	return n, nil
}

// receive takes the next piece.
func (d *downloaded) receive() error {
	if d.end == nil {
		ctx, cancel := context.WithCancel(d.ctx)
		stream, err := d.client.ReadDiskExport(ctx, &diskv1.ReadDiskExportRequest{
			Namespace: d.file.GetNamespace(), Name: d.file.GetName(), Format: d.file.GetFormat(),
			Offset: d.offset, Etag: d.file.GetEtag(),
		})
		if err != nil {
			cancel()
			return err
		}
		d.stream, d.end = stream, cancel
	}
	piece, err := d.stream.Recv()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	d.data, d.zeros = piece.GetData(), piece.GetZeroBytes()
	return err
}

// close ends the stream.
func (d *downloaded) close() {
	if d.end != nil {
		d.end()
	}
	d.stream, d.end, d.data, d.zeros = nil, nil, nil, 0
}
