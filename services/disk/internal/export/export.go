// Package export streams disks and snapshots out as files: qcow2 or raw, from any
// offset, with their SHA-256.
//
// It owns the hold that keeps VMs from writing meanwhile, and snapshots from going. It must not know how
// data is stored.
package export

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
)

// Reasons of the faults of this package.
const (
	// ReasonChanged says that the disk was written to since the etag was given.
	ReasonChanged = "DiskChanged"
	// ReasonOffset says that the file ends before the offset.
	ReasonOffset = "OffsetOutOfRange"
	// ReasonStalled says that the caller took nothing for too long.
	ReasonStalled = "ExportStalled"

	reasonNotReady = "VirtualDiskNotReady"
)

const (
	defaultPatience = time.Minute
	maxDigests      = 1024
)

// Options say what a service works with. Logger is required.
type Options struct {
	// Patience is how long a caller may take nothing; 0 means a minute.
	Patience time.Duration
	Logger   *slog.Logger
}

// Service implements diskv1.DiskExportServiceServer, and
// diskv1.SnapshotExportServiceServer, which has the same methods.
type Service struct {
	diskv1.UnimplementedDiskExportServiceServer
	diskv1.UnimplementedSnapshotExportServiceServer

	patience time.Duration
	holds    holds

	mu sync.Mutex
	// digests are those that were computed, by etag.
	digests map[string]string
}

// OfDisks returns the service that exports disks. admit judges a holder of one, as
// any other. Run must run beside it.
func OfDisks(all Disks, volumes Volumes, admit func(context.Context, *diskv1.VirtualDisk, *metav1.Holder) error, o Options) *Service {
	return newService(disks{all, volumes, admit}, o)
}

// OfSnapshots returns the service that exports snapshots. Run must run beside it.
func OfSnapshots(all Snapshots, layers Layers, o Options) *Service {
	return newService(snapshots{all, layers}, o)
}

func newService(of subject, o Options) *Service {
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	return &Service{
		patience: o.Patience, digests: map[string]string{},
		holds: holds{subject: of, logger: o.Logger, readers: map[resource.Key]*readers{}},
	}
}

// Run lets go of objects whose exports have ended without saying so, until ctx
// ends; it returns nil then.
func (s *Service) Run(ctx context.Context) error { return s.holds.run(ctx) }

// opened is a file of an object that is held.
type opened struct {
	*file
	told  *diskv1.DiskExport
	close func()
}

// open holds an object and finds out what its file is. The caller closes it.
func (s *Service) open(ctx context.Context, key resource.Key, format string) (*opened, error) {
	switch format {
	case "":
		format = formatQCOW2
	case formatQCOW2, formatRaw:
	default:
		return nil, fault.Refuse("format", "FieldValueInvalid", "%q is not supported: give qcow2 or raw", format)
	}
	place, release, err := s.holds.take(ctx, key)
	if err != nil {
		return nil, err
	}
	f, err := s.look(ctx, place, format)
	if err != nil {
		release()
		return nil, failure(err, key)
	}
	etag := f.etag(format)
	return &opened{file: f, close: release, told: &diskv1.DiskExport{
		Namespace: key.Namespace, Name: key.Name, Format: format,
		SizeBytes: f.bytes(), VirtualBytes: f.content.VirtualBytes, Etag: etag, Sha256: s.known(etag),
	}}, nil
}

func (s *Service) look(ctx context.Context, place, format string) (*file, error) {
	content, err := s.holds.subject.content(ctx, place)
	if err != nil {
		return nil, err
	}
	return newFile(ctx, content, format)
}

// failure classifies what came of reading a disk.
func failure(err error, key resource.Key) error {
	var known *fault.Fault
	switch {
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, layer.ErrNoVolume):
		return fault.Wrap(err, fault.NotReady, reasonNotReady, "disk %s is not Ready", key.Name)
	}
	return fault.Wrap(err, fault.Internal, fault.ReasonInternal, "%s can't be read: the disk service's log says why", key.Name)
}

// DescribeDiskExport implements diskv1.DiskExportServiceServer.
func (s *Service) DescribeDiskExport(ctx context.Context, r *diskv1.DescribeDiskExportRequest) (*diskv1.DiskExport, error) {
	f, err := s.open(ctx, keyOf(r), r.GetFormat())
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.told, nil
}

// DigestDiskExport implements diskv1.DiskExportServiceServer.
func (s *Service) DigestDiskExport(ctx context.Context, r *diskv1.DescribeDiskExportRequest) (*diskv1.DiskExport, error) {
	f, err := s.open(ctx, keyOf(r), r.GetFormat())
	if err != nil {
		return nil, err
	}
	defer f.close()
	if f.told.GetSha256() == "" {
		sum := newDigest()
		if err := f.send(ctx, 0, f.bytes(), sum); err != nil {
			return nil, failure(err, keyOf(r))
		}
		f.told.Sha256 = s.learn(f.told.GetEtag(), sum)
	}
	return f.told, nil
}

// ReadDiskExport implements diskv1.DiskExportServiceServer.
func (s *Service) ReadDiskExport(r *diskv1.ReadDiskExportRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	f, err := s.open(ctx, keyOf(r), r.GetFormat())
	if err != nil {
		return err
	}
	return s.serve(ctx, f, r, stream)
}

// ReadContent streams what never changes, as a qcow2: it needs no hold.
func (s *Service) ReadContent(content layer.Content, r *diskv1.ReadDiskExportRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	f, err := newFile(ctx, content, formatQCOW2)
	if err != nil {
		return failure(err, keyOf(r))
	}
	return s.serve(ctx, &opened{file: f, close: func() {}, told: &diskv1.DiskExport{
		Format: formatQCOW2, SizeBytes: f.bytes(), VirtualBytes: content.VirtualBytes, Etag: f.etag(formatQCOW2),
	}}, r, stream)
}

// serve sends what is asked for of an open file, and closes it.
func (s *Service) serve(ctx context.Context, f *opened, r *diskv1.ReadDiskExportRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	if err := refuse(f, r); err != nil {
		f.close()
		return err
	}
	// Only the end of a handler ends a send that nobody takes. The disk is let go
	// when nothing reads it any more.
	watched := &watched{stream: stream, patience: s.patience, stalled: time.NewTimer(s.patience)}
	defer watched.stalled.Stop()
	sent := make(chan error, 1)
	go func() {
		err := s.send(ctx, f, r, watched)
		f.close()
		sent <- err
	}()
	var err error
	select {
	case err = <-sent:
	case <-watched.stalled.C:
		err = fault.New(fault.Transient, ReasonStalled, "nothing was taken for %v", s.patience)
	}
	if err != nil {
		return failure(err, keyOf(r))
	}
	return nil
}

// refuse judges what part is asked for.
func refuse(f *opened, r *diskv1.ReadDiskExportRequest) error {
	switch {
	case r.GetEtag() != "" && r.GetEtag() != f.told.GetEtag():
		return fault.New(fault.Stale, ReasonChanged, "%s has changed since: begin anew", r.GetName())
	case r.GetOffset() < 0, r.GetOffset() > f.bytes(), r.GetLength() < 0:
		return fault.New(fault.Invalid, ReasonOffset, "offset %d: the file has %d bytes", r.GetOffset(), f.bytes())
	}
	return nil
}

func (s *Service) send(ctx context.Context, f *opened, r *diskv1.ReadDiskExportRequest, out *watched) error {
	if err := out.send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_File{File: f.told}}); err != nil {
		return err
	}
	from, to := r.GetOffset(), f.bytes()
	if length := r.GetLength(); length > 0 && length < to-from {
		to = from + length
	}
	if from > 0 || to < f.bytes() {
		if from == to {
			return nil
		}
		return f.send(ctx, from, to, out)
	}
	sum := newDigest()
	if err := f.file.send(ctx, from, to, out, sum); err != nil {
		return err
	}
	return out.send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_Sha256{Sha256: s.learn(f.told.GetEtag(), sum)}})
}

// watched is a sink that notices when nobody takes what it sends.
type watched struct {
	stream   grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]
	patience time.Duration
	stalled  *time.Timer
}

func (w *watched) send(m *diskv1.ReadDiskExportResponse) error {
	w.stalled.Reset(w.patience)
	return w.stream.Send(m)
}

func (w *watched) data(b []byte) error {
	return w.send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_Data{Data: b}})
}

func (w *watched) zeros(count int64) error {
	return w.send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_ZeroBytes{ZeroBytes: count}})
}

func (s *Service) known(etag string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests[etag]
}

// learn remembers a digest: whoever asks next need not wait.
func (s *Service) learn(etag string, sum digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.digests) >= maxDigests {
		clear(s.digests)
	}
	s.digests[etag] = sum.hex()
	return s.digests[etag]
}

func keyOf(r interface {
	GetNamespace() string
	GetName() string
}) resource.Key {
	return resource.Key{Namespace: r.GetNamespace(), Name: r.GetName()}
}
