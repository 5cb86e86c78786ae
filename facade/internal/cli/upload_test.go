package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
)

const uploadToken = "token"

// receiver is an image service with one image, whose uploads break off.
type receiver struct {
	imagev1.UnimplementedUploadServiceServer
	imagev1.UnimplementedVirtualImageServiceServer

	mu      sync.Mutex
	exists  bool
	data    []byte
	length  int64
	failed  string
	breaks  int // how many streams break yet
	streams int
}

func (r *receiver) state() *imagev1.Upload {
	state := &imagev1.Upload{Offset: int64(len(r.data)), State: imagev1.UploadState_Receiving}
	if r.length > 0 {
		state.Length = &r.length
	}
	if r.length == state.GetOffset() && r.length > 0 {
		state.State = imagev1.UploadState_Complete
	}
	return state
}

func (r *receiver) GetUpload(_ context.Context, request *imagev1.GetUploadRequest) (*imagev1.Upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.GetToken() != uploadToken || r.failed != "" {
		return nil, fault.New(fault.NotFound, "UploadUnknown", "there is no such upload")
	}
	return r.state(), nil
}

func (r *receiver) BeginUpload(_ context.Context, request *imagev1.BeginUploadRequest) (*imagev1.Upload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.GetRestart() {
		r.data = nil
	}
	r.length = request.GetLength()
	return r.state(), nil
}

func (r *receiver) WriteUpload(stream imagev1.UploadService_WriteUploadServer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams++
	for first := true; ; first = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(r.state())
		}
		if err != nil {
			return err
		}
		if first && (message.GetOffset() != int64(len(r.data)) || message.GetToken() != uploadToken) {
			return fault.New(fault.Stale, "UploadOffsetMismatch", "the file ends at %d", len(r.data))
		}
		r.data = append(r.data, message.GetData()...)
		if r.breaks > 0 {
			r.breaks--
			return fault.New(fault.Transient, "ServerStopping", "the server is stopping")
		}
	}
}

func (r *receiver) CreateVirtualImage(_ context.Context, request *imagev1.CreateVirtualImageRequest) (*imagev1.VirtualImage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exists {
		return nil, fault.New(fault.Exists, "AlreadyExists", "it is there")
	}
	r.exists = request.GetVirtualImage().GetSpec().GetDataSource().GetType() == imagev1.DataSourceType_Upload
	return request.GetVirtualImage(), nil
}

func (r *receiver) GetVirtualImage(_ context.Context, request *metav1.GetRequest) (*imagev1.VirtualImage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.exists {
		return nil, fault.New(fault.NotFound, "NotFound", "there is no image %s", request.GetName())
	}
	status := &imagev1.VirtualImageStatus{Phase: imagev1.ImagePhase_WaitForUserUpload, Progress: "0%"}
	switch {
	case r.failed != "":
		status.Phase = imagev1.ImagePhase_Failed
		status.Conditions = []*metav1.Condition{{Type: "Ready", Reason: r.failed, Message: proto.String("why")}}
	case r.state().GetState() == imagev1.UploadState_Complete:
		status.Phase = imagev1.ImagePhase_Ready
	default:
		status.ImageUploadUrls = &imagev1.ImageUploadURLs{External: "https://door/upload/" + uploadToken}
	}
	return &imagev1.VirtualImage{Metadata: &metav1.ObjectMeta{Name: request.GetName()}, Status: status}, nil
}

// uploadTo prepares the upload of a file to the image vi/some-image.
func uploadTo(t *testing.T, r *receiver, content []byte) (u *uploading, out, note *bytes.Buffer) {
	t.Helper()
	conn, _ := servetest.Host(t, serve.Part{Register: func(registrar grpc.ServiceRegistrar) error {
		imagev1.RegisterUploadServiceServer(registrar, r)
		imagev1.RegisterVirtualImageServiceServer(registrar, r)
		return nil
	}})
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := openUpload(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	target, err := newUploadTarget(conn, "vi/some-image", "default")
	if err != nil {
		t.Fatal(err)
	}
	out, note = new(bytes.Buffer), new(bytes.Buffer)
	return &uploading{
		timeout: time.Minute, service: imagev1.NewUploadServiceClient(conn), target: target, file: file, out: out, note: note,
	}, out, note
}

func someFile() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 100_000) }

func TestUploadGoesOnAfterEachBreak(t *testing.T) {
	r, content := &receiver{breaks: 2}, someFile()
	u, out, note := uploadTo(t, r, content)
	u.create = true
	if err := u.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.data, content) || r.streams != 3 {
		t.Errorf("after %d streams the service has %d bytes", r.streams, len(r.data))
	}
	if out.String() != "virtualimage/some-image: Ready\n" {
		t.Errorf("it says %q", out)
	}
	if !strings.Contains(note.String(), "trying again") || !strings.Contains(note.String(), "100.0%") {
		t.Errorf("on the way it says %q", note)
	}
}

func TestUploadGoesOnWithWhatAnEarlierOneSent(t *testing.T) {
	content := someFile()
	r := &receiver{exists: true, data: bytes.Clone(content[:1000]), length: int64(len(content))}
	u, _, _ := uploadTo(t, r, content)
	u.noWait = true
	if err := u.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.data, content) {
		t.Error("the file is another one")
	}
}

func TestUploadOfAnotherFileIsRefusedUnlessAsked(t *testing.T) {
	content := someFile()
	r := &receiver{exists: true, data: []byte("other"), length: 10}
	u, _, _ := uploadTo(t, r, content)
	if err := u.run(t.Context()); !errors.Is(err, errOtherFile) {
		t.Fatalf("it says %v", err)
	}
	u.restart = true
	if err := u.run(t.Context()); err != nil || !bytes.Equal(r.data, content) {
		t.Errorf("from its start: %v", err)
	}
}

func TestUploadSaysWhyItCanNotBe(t *testing.T) {
	missing, _, _ := uploadTo(t, &receiver{}, someFile())
	if err := missing.run(t.Context()); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "--create") {
		t.Errorf("a missing image: %v", err)
	}
	failed, _, _ := uploadTo(t, &receiver{exists: true, failed: "WaitForUserUploadTimeout"}, someFile())
	var why *objectError
	if err := failed.run(t.Context()); !errors.As(err, &why) || why.reason != "WaitForUserUploadTimeout" {
		t.Errorf("a failed image: %v", err)
	}
	done, _, _ := uploadTo(t, &receiver{exists: true, data: []byte("x"), length: 1}, someFile())
	if err := done.run(t.Context()); !errors.Is(err, errTakesNoFile) {
		t.Errorf("a Ready image: %v", err)
	}
	stopped, _, _ := uploadTo(t, &receiver{exists: true, breaks: 1 << 20}, someFile())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := stopped.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("one that is stopped: %v", err)
	}
	if _, err := openUpload(t.TempDir()); !errors.Is(err, errNotAFile) {
		t.Errorf("a folder: %v", err)
	}
}

func TestUploadTargetIsNamedAsForKubectl(t *testing.T) {
	for argument, want := range map[string]string{
		"vi/a": "virtualimage/a default", "VirtualImage/a.other": "virtualimage/a other", "virtualimages/a": "virtualimage/a default",
		"cvi/a": "clustervirtualimage/a ", "vd/a": "virtualdisk/a default",
		"vm/a": "", "vi": "", "vi/": "", "a": "",
	} {
		got := ""
		target, err := newUploadTarget(nil, argument, "default")
		if err == nil {
			got = target.String() + " " + target.key.Namespace
		} else if refused := new(targetError); !errors.As(err, &refused) {
			t.Errorf("%s: %v", argument, err)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", argument, got, want)
		}
	}
}

func TestBarTellsHowFar(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, "virtualimage/a")
	b.terminal = true
	b.show(512<<20, 2<<30)
	b.end()
	if want := "\r\x1b[K[=======                       ] virtualimage/a   25.0%  512.0 MiB of 2.0 GiB\n"; out.String() != want {
		t.Errorf("it shows %q", out.String())
	}
}
