package disk_test

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
)

// importService is the image service's, with imports that get on when the test
// says so.
type importService struct {
	imagev1.UnimplementedImportServiceServer

	blob *imagev1.Blob

	mu       sync.Mutex
	imports  map[string]*imagev1.Import // by the owner's name
	sources  map[string]*imagev1.DataSource
	watchers []chan *imagev1.Import
	changed  chan struct{}
}

func newImportService(blob *imagev1.Blob) *importService {
	return &importService{
		blob: blob, imports: map[string]*imagev1.Import{}, sources: map[string]*imagev1.DataSource{}, changed: make(chan struct{}),
	}
}

func (s *importService) part() serve.Part {
	return serve.Part{
		Name:     "import",
		Register: func(r grpc.ServiceRegistrar) error { imagev1.RegisterImportServiceServer(r, s); return nil },
		Ready:    func(context.Context) error { return nil },
		Run:      func(ctx context.Context) error { <-ctx.Done(); return nil },
	}
}

func (s *importService) EnsureImport(_ context.Context, request *imagev1.EnsureImportRequest) (*imagev1.Import, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := request.GetOwner().GetName()
	if file := s.imports[name]; file == nil || file.GetGeneration() != request.GetGeneration() {
		s.imports[name] = &imagev1.Import{
			Owner: request.GetOwner(), Generation: request.GetGeneration(), Stage: imagev1.ImportStage_Running, Progress: "0.0%",
		}
		s.sources[name] = request.GetDataSource()
	}
	s.tell()
	return proto.CloneOf(s.imports[name]), nil
}

func (s *importService) DeleteImport(_ context.Context, request *imagev1.DeleteImportRequest) (*imagev1.DeleteImportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.imports, request.GetOwner().GetName())
	s.tell()
	return &imagev1.DeleteImportResponse{}, nil
}

func (s *importService) WatchImports(_ *imagev1.WatchImportsRequest, stream grpc.ServerStreamingServer[imagev1.Import]) error {
	events := make(chan *imagev1.Import, 100)
	s.mu.Lock()
	s.watchers = append(s.watchers, events)
	s.mu.Unlock()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case file := <-events:
			if err := stream.Send(file); err != nil {
				return err
			}
		}
	}
}

// tell wakes a test that waits. The caller holds mu.
func (s *importService) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// change changes an import, and tells those who watch.
func (s *importService) change(t *testing.T, name string, change func(*imagev1.Import)) {
	t.Helper()
	s.await(t, name, func(file *imagev1.Import) bool { return file != nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.imports[name])
	for _, watcher := range s.watchers {
		watcher <- proto.CloneOf(s.imports[name])
	}
}

// await waits until an import, nil for none, is as wanted.
func (s *importService) await(t *testing.T, name string, wanted func(*imagev1.Import) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servetest.Patience)
	defer cancel()
	for {
		s.mu.Lock()
		fine, changed := wanted(s.imports[name]), s.changed
		s.mu.Unlock()
		if fine {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the import of %s stays as it is", name)
		}
	}
}

func TestDiskIsImportedByTheImageService(t *testing.T) {
	h := newHouse(t)
	spec := &diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{
		Type: imagev1.DataSourceType_ContainerImage, ContainerImage: &imagev1.ContainerImageSource{Image: "127.0.0.1:5000/guest"},
	}}
	check(t, h.apply("root", spec))
	h.awaitDisk("root", diskv1.DiskPhase_Provisioning, "Ready", "The file is being imported.")
	if got := h.files.sources["root"]; got.GetContainerImage().GetImage() != "127.0.0.1:5000/guest" {
		t.Errorf("it comes from %v", got)
	}
	h.files.change(t, "root", func(file *imagev1.Import) { file.Progress = "40.0%" })
	servetest.Await(t, h.disks, key("root"), "was 20%", func(d *diskv1.VirtualDisk) bool { return d.GetStatus().GetProgress() == "20.0%" })
	h.files.change(t, "root", func(file *imagev1.Import) {
		file.Stage, file.Message = imagev1.ImportStage_Failed, "the checksum is another"
	})
	h.awaitDisk("root", diskv1.DiskPhase_Failed, "Ready", "the checksum is another")

	check(t, h.apply("root", &diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{Type: imagev1.DataSourceType_Upload}}))
	h.files.await(t, "root", func(file *imagev1.Import) bool { return file.GetGeneration() == 2 })
	h.files.change(t, "root", func(file *imagev1.Import) {
		file.Stage = imagev1.ImportStage_WaitForUserUpload
		file.ImageUploadUrls = &imagev1.ImageUploadURLs{External: "https://127.0.0.1/upload/x"}
	})
	waiting := h.awaitDisk("root", diskv1.DiskPhase_WaitForUserUpload, "Ready", "Send the file to one of status.imageUploadURLs.")
	if got := waiting.GetStatus().GetImageUploadUrls().GetExternal(); got != "https://127.0.0.1/upload/x" {
		t.Errorf("upload to %q", got)
	}
	h.stop()
	h.open() // another instance takes over
	h.files.change(t, "root", func(file *imagev1.Import) { file.Stage, file.Blob = imagev1.ImportStage_Done, h.files.blob })
	made := h.awaitDisk("root", diskv1.DiskPhase_Ready, "Ready", "")
	if status := made.GetStatus(); status.GetCapacity() != "8Mi" || status.GetImageUploadUrls() != nil {
		t.Errorf("status is %v", status)
	}
	h.files.await(t, "root", func(file *imagev1.Import) bool { return file == nil })
}

func TestDiskAsksAgainForAnImportThatTheImageServiceForgot(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the next look: not in the fast run")
	}
	h := newHouse(t)
	check(t, h.apply("root", &diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{
		Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: "http://127.0.0.1/x"},
	}}))
	h.awaitDisk("root", diskv1.DiskPhase_Provisioning, "Ready", "The file is being imported.")
	h.files.mu.Lock()
	delete(h.files.imports, "root")
	h.files.mu.Unlock()
	h.files.await(t, "root", func(file *imagev1.Import) bool { return file != nil })

	_, err := h.disks.Delete(t.Context(), key("root"), resource.DeleteOptions{})
	check(t, err)
	servetest.AwaitGone(t, h.disks, key("root"))
	h.files.await(t, "root", func(file *imagev1.Import) bool { return file == nil })
}
