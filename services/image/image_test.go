package image_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/image"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
)

const (
	namespace = "default"
	patience  = time.Minute
	chunk     = 1 << 20
)

// world is what the service works with: an etcd, a registry, and a web server.
type world struct {
	etcd     *clientv3.Client
	registry *dvcrtest.Registry
	moved    traffic
	files    *fileServer
	url      string
	staging  string
	uploads  image.Uploads
	secrets  *secrets
	logs     *logs
}

func newWorld(t *testing.T, secure bool) *world {
	t.Helper()
	w := &world{
		etcd: etcdtest.Start(t), secrets: &secrets{}, logs: &logs{},
		files: &fileServer{files: map[string][]byte{}}, staging: t.TempDir(),
		uploads: image.Uploads{URL: "https://gateway:1234/", CAFile: "/tmp/our ca.crt"},
	}
	w.registry = dvcrtest.Start(t, dvcrtest.Options{Secure: secure, Wrap: w.moved.count})
	server := httptest.NewServer(w.files)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// fileServer serves files with ranges and a strong tag.
type fileServer struct {
	files  map[string][]byte
	ranged atomic.Int64
	// gate, if set, is called before each piece of a body with the count of bytes
	// sent so far. An error of it breaks the connection off.
	gate atomic.Pointer[func(ctx context.Context, sent int) error]
	// fail, where it isn't 0, is the status of each answer.
	fail atomic.Int64
}

func (s *fileServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if status := s.fail.Load(); status != 0 {
		http.Error(w, "no", int(status))
		return
	}
	data, found := s.files[r.URL.Path]
	if !found {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get("Range") != "" {
		s.ranged.Add(1)
	}
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(&gated{ResponseWriter: w, server: s, request: r}, r, "", time.Time{}, bytes.NewReader(data))
}

type gated struct {
	http.ResponseWriter
	server  *fileServer
	request *http.Request
	sent    int
}

func (g *gated) Write(p []byte) (int, error) {
	if gate := g.server.gate.Load(); gate != nil {
		if err := (*gate)(g.request.Context(), g.sent); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	n, err := g.ResponseWriter.Write(p)
	g.sent += n
	return n, err
}

// service is the image service at work, and the ways to it.
type service struct {
	images  *resource.Client[*imagev1.VirtualImage]
	cluster *resource.Client[*imagev1.ClusterVirtualImage]
	uploads imagev1.UploadServiceClient
	imports imagev1.ImportServiceClient
	stop    func()
}

func (w *world) start(t *testing.T) *service {
	t.Helper()
	opts := image.Options{
		Etcd: w.etcd, StagingDir: w.staging, Uploads: w.uploads,
		Registry: image.Registry{
			Endpoint: w.registry.Options.Endpoint, PlainHTTP: w.registry.Options.PlainHTTP,
			Username: w.registry.Options.Username, Password: w.registry.Options.Password,
		},
		BlobPath:     image.BlobsIn(w.registry.Root),
		AllowSources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:       slog.New(slog.NewTextHandler(w.logs, nil)),
		Secrets:      w.secrets.connect(t),
	}
	if dir := w.registry.Options.CertDir; dir != "" {
		opts.Registry.CA = read(t, filepath.Join(dir, "ca.crt"))
	}
	s, err := image.New(image.Impatient(opts, chunk))
	if err != nil {
		t.Fatal(err)
	}
	part := s.Part()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	if err := part.Register(server); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part.Run(ctx) }()
	conn := connect(t, server)
	running := &service{
		images: client[*imagev1.VirtualImage](t, conn), cluster: client[*imagev1.ClusterVirtualImage](t, conn),
		uploads: imagev1.NewUploadServiceClient(conn),
		imports: imagev1.NewImportServiceClient(conn),
	}
	stopped := false
	running.stop = func() {
		if stopped {
			return
		}
		stopped = true
		server.Stop()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(running.stop)
	if err := part.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return running
}

func connect(t *testing.T, server *grpc.Server) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	conn, err := grpc.NewClient("passthrough:///images",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func client[T resource.Object](t *testing.T, conn *grpc.ClientConn) *resource.Client[T] {
	t.Helper()
	var none T
	c, err := resource.NewClient[T](conn, kind.Must(none))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func key(name string) resource.Key { return resource.Key{Namespace: namespace, Name: name} }

func newImage(name, url string) *imagev1.VirtualImage {
	return &imagev1.VirtualImage{
		Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: &imagev1.VirtualImageSpec{
			Storage: imagev1.ImageStorage_ContainerRegistry,
			DataSource: &imagev1.DataSource{
				Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: url},
			},
		},
	}
}

func create(t *testing.T, s *service, i *imagev1.VirtualImage) *imagev1.VirtualImage {
	t.Helper()
	i, err := s.images.Create(t.Context(), i, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// await follows an object until it is as wanted, and returns what it was before.
func await[T resource.Object](t *testing.T, c *resource.Client[T], key resource.Key, what string, want func(T) bool) (T, []T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var seen []T
	for event, err := range c.Watch(ctx, resource.WatchOptions{Namespace: key.Namespace}) {
		if err != nil {
			t.Fatalf("waiting for %s to be %s: %v\nlast seen: %v", key, what, err, last(seen))
		}
		if event.Type == resource.Bookmark || resource.KeyOf(event.Object) != key {
			continue
		}
		if event.Type != resource.Deleted && want(event.Object) {
			return event.Object, seen
		}
		seen = append(seen, event.Object)
		if event.Type == resource.Deleted && what == gone {
			return event.Object, seen
		}
	}
	t.Fatalf("the watch for %s ended", key)
	panic("unreachable")
}

const gone = "gone"

func last[T any](seen []T) any {
	if len(seen) == 0 {
		return "nothing"
	}
	return seen[len(seen)-1]
}

func inPhase(phase imagev1.ImagePhase_Value) func(*imagev1.VirtualImage) bool {
	return func(i *imagev1.VirtualImage) bool {
		return i.GetStatus().GetPhase() == phase && i.GetStatus().GetObservedGeneration() == i.GetMetadata().GetGeneration()
	}
}

func awaitPhase(t *testing.T, s *service, name string, phase imagev1.ImagePhase_Value) (*imagev1.VirtualImage, []*imagev1.VirtualImage) {
	t.Helper()
	return await(t, s.images, key(name), phase.String(), inPhase(phase))
}

func awaitGone[T resource.Object](t *testing.T, c *resource.Client[T], key resource.Key) {
	t.Helper()
	if _, err := c.Get(t.Context(), key); fault.Is(err, fault.NotFound) {
		return
	}
	await(t, c, key, gone, func(T) bool { return false })
}

func wantFault(t *testing.T, err error, class fault.Class, reason string) {
	t.Helper()
	if fault.ClassOf(err) != class || fault.ReasonOf(err) != reason {
		t.Errorf("got %v (%s, %s), want %s, %s", err, fault.ClassOf(err), fault.ReasonOf(err), class, reason)
	}
}

// published reports whether an image is in the registry.
func (w *world) published(t *testing.T, repository, tag string) (dvcr.Artifact, bool) {
	t.Helper()
	artifact, _, err := w.registry.Repository(t, repository).Get(t.Context(), tag)
	if failure.ReasonOf(err) == dvcr.ReasonNotFound {
		return artifact, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return artifact, true
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// qcow2 is a disk of 16 MiB with data all over it, as the real tool writes it.
func qcow2(t *testing.T) (raw string, packed []byte) {
	t.Helper()
	disk := make([]byte, 16<<20)
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(disk[:8<<20])
	raw = filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, path)
	return raw, read(t, path)
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

func readyOf(i *imagev1.VirtualImage) *metav1.Condition {
	return condition.Find(i.GetStatus().GetConditions(), "Ready")
}

func checkpoints(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			all.Write(text)
		}
	}
	return all.String()
}
