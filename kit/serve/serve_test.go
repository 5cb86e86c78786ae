package serve_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/tokenfile"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
)

const patience = 30 * time.Second

// running is a process under test.
type running struct {
	t         *testing.T
	authority *serve.Authority
	address   string
	private   string
	logs      *logs
	stop      context.CancelFunc
	done      chan error
}

// logs is a buffer that several goroutines write to.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, stopTimeout time.Duration, parts ...serve.Part) *running {
	t.Helper()
	authority, err := serve.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	users, err := tokenfile.Parse(strings.NewReader("token,root,1,system:masters\n"))
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, authority: authority, address: l.Addr().String(), private: freeAddress(t), logs: &logs{}, stop: cancel, done: make(chan error, 1)}
	config := serve.Config{
		Options:  serve.Options{PrivateAddress: r.private, StopTimeout: stopTimeout},
		Name:     "test",
		Guard:    auth.NewGuard(users, tokenfile.Rights{}),
		TLS:      serve.ServerTLS(certificate, authority.Pool()),
		Listener: l,
		Logger:   slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	go func() { r.done <- serve.Run(ctx, config, parts...) }()
	t.Cleanup(cancel)
	return r
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

func (r *running) dial() *grpc.ClientConn {
	r.t.Helper()
	conn, err := serve.Dial(r.address, serve.ClientTLS(r.authority.Pool()), grpc.WithPerRPCCredentials(serve.BearerToken("token")))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// wait returns what Run returned.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatal("Run did not return")
		return nil
	}
}

// awaitHealth blocks until a service has the status.
func (r *running) awaitHealth(service string, want grpc_health_v1.HealthCheckResponse_ServingStatus) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	s, err := grpc_health_v1.NewHealthClient(r.dial()).Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		r.t.Fatal(err)
	}
	for {
		got, err := s.Recv()
		if err != nil {
			r.t.Fatalf("waiting for %q to be %v: %v", service, want, err)
		}
		if got.GetStatus() == want {
			return
		}
	}
}

// service is a disk service whose methods do what the test says.
type service struct {
	diskv1.UnimplementedVirtualDiskServiceServer
	get   func(context.Context) error
	watch func(context.Context, grpc.ServerStreamingServer[diskv1.WatchVirtualDisksResponse]) error
}

func (s *service) GetVirtualDisk(ctx context.Context, _ *metav1.GetRequest) (*diskv1.VirtualDisk, error) {
	return &diskv1.VirtualDisk{}, s.get(ctx)
}

func (s *service) WatchVirtualDisks(_ *metav1.WatchRequest, ss grpc.ServerStreamingServer[diskv1.WatchVirtualDisksResponse]) error {
	return s.watch(ss.Context(), ss)
}

func (s *service) register(r grpc.ServiceRegistrar) error {
	diskv1.RegisterVirtualDiskServiceServer(r, s)
	return nil
}

const diskService = "orlop.disk.v1.VirtualDiskService"

func getDisk(ctx context.Context, c *grpc.ClientConn, o ...grpc.CallOption) error {
	_, err := diskv1.NewVirtualDiskServiceClient(c).GetVirtualDisk(ctx, &metav1.GetRequest{Namespace: "a", Name: "d"}, o...)
	return err
}

func httpStatus(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHealthSaysServingOncePartsAreReady(t *testing.T) {
	release := make(chan struct{})
	ok := func(context.Context) error { return nil }
	slow := serve.Part{Name: "slow", Ready: func(ctx context.Context) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	r := start(t, patience, serve.Part{Name: "disk", Register: (&service{get: ok}).register}, slow)

	r.awaitHealth(diskService, grpc_health_v1.HealthCheckResponse_SERVING)
	r.awaitHealth("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if code, body := httpStatus(t, "http://"+r.private+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "slow") {
		t.Fatalf("healthz: %d %s", code, body)
	}
	close(release)
	r.awaitHealth("", grpc_health_v1.HealthCheckResponse_SERVING)
	if code, body := httpStatus(t, "http://"+r.private+"/healthz"); code != http.StatusOK {
		t.Fatalf("healthz: %d %s", code, body)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}

func TestCallsUnderWayFinishAndPartsOutliveThem(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	partEnded := make(chan struct{})
	s := &service{get: func(ctx context.Context) error {
		close(entered)
		<-finish
		select {
		case <-partEnded:
			return fault.New(fault.Internal, "PartEnded", "the part ended before the call")
		default:
			return ctx.Err()
		}
	}}
	r := start(t, patience, serve.Part{Name: "disk", Register: s.register, Run: func(ctx context.Context) error {
		<-ctx.Done()
		close(partEnded)
		return ctx.Err()
	}})
	answered := make(chan error, 1)
	conn := r.dial()
	go func() { answered <- getDisk(t.Context(), conn, grpc.WaitForReady(true)) }()
	<-entered
	r.stop()
	r.awaitLog("stopping")
	close(finish)
	if err := <-answered; err != nil {
		t.Fatalf("the call under way: %v", err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}

// awaitLog polls for a word in the logs.
func (r *running) awaitLog(word string) {
	r.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(r.logs.String(), word) {
		select {
		case <-tick.C:
		case <-deadline.C:
			r.t.Fatalf("no %q in the logs:\n%s", word, r.logs)
		}
	}
}

func TestStreamsAreCutWithAReason(t *testing.T) {
	s := &service{watch: func(ctx context.Context, ss grpc.ServerStreamingServer[diskv1.WatchVirtualDisksResponse]) error {
		if err := ss.Send(&diskv1.WatchVirtualDisksResponse{}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	r := start(t, time.Hour, serve.Part{Name: "disk", Register: s.register})
	w, err := diskv1.NewVirtualDiskServiceClient(r.dial()).WatchVirtualDisks(t.Context(), &metav1.WatchRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if _, err := w.Recv(); fault.ClassOf(err) != fault.Transient || fault.ReasonOf(err) != "ServerStopping" {
		t.Fatalf("got %v", err)
	}
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}

func TestCallsThatNeverEndAreCutWhenTheTimeIsUp(t *testing.T) {
	entered := make(chan struct{})
	s := &service{get: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}
	r := start(t, time.Millisecond, serve.Part{Name: "disk", Register: s.register})
	answered := make(chan error, 1)
	conn := r.dial()
	r.awaitHealth(diskService, grpc_health_v1.HealthCheckResponse_SERVING)
	go func() { answered <- getDisk(t.Context(), conn) }()
	<-entered
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		t.Fatal("the call was answered")
	}
}

func TestAFailedPartEndsTheProcess(t *testing.T) {
	broken := errors.New("broken")
	r := start(t, patience,
		serve.Part{Name: "bad", Run: func(context.Context) error { return broken }},
		serve.Part{Name: "good", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }})
	if err := r.wait(); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

func TestAPanicIsAnInternalFaultThatTellsNothing(t *testing.T) {
	s := &service{get: func(context.Context) error { panic("the cat is out") }}
	r := start(t, patience, serve.Part{Name: "disk", Register: s.register})
	conn := r.dial()
	err := getDisk(t.Context(), conn, grpc.WaitForReady(true))
	if !fault.Is(err, fault.Internal) || strings.Contains(err.Error(), "cat") {
		t.Fatalf("got %v", err)
	}
	r.awaitLog("the cat is out")
	s.get = func(context.Context) error { return nil }
	if err := getDisk(t.Context(), conn); err != nil {
		t.Fatalf("the next call: %v", err)
	}
}

func TestReadsAreRepeatedWhileTheServiceIsUnavailable(t *testing.T) {
	var calls int
	s := &service{get: func(context.Context) error {
		if calls++; calls < 3 {
			return fault.New(fault.Transient, "Busy", "not now")
		}
		return nil
	}}
	r := start(t, patience, serve.Part{Name: "disk", Register: s.register})
	if err := getDisk(t.Context(), r.dial(), grpc.WaitForReady(true)); err != nil || calls != 3 {
		t.Fatalf("%d calls, %v", calls, err)
	}
}

func TestCallsAreLoggedCountedAndNamed(t *testing.T) {
	s := &service{get: func(context.Context) error { return fault.New(fault.NotFound, "NotFound", "no such disk") }}
	r := start(t, patience, serve.Part{Name: "disk", Register: s.register})
	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "call-7")
	if err := getDisk(ctx, r.dial(), grpc.WaitForReady(true), grpc.Trailer(&trailer)); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	if got := trailer.Get("x-request-id"); len(got) != 1 || got[0] != "call-7" {
		t.Fatalf("trailer %v", got)
	}
	r.awaitLog("request=call-7")
	_, metrics := httpStatus(t, "http://"+r.private+"/metrics")
	const want = `orlop_grpc_server_call_seconds_count{class="NotFound",method="GetVirtualDisk",service="orlop.disk.v1.VirtualDiskService"} 1`
	if !strings.Contains(metrics, want) {
		t.Fatalf("no %s in\n%s", want, metrics)
	}
	if strings.Contains(r.logs.String(), "token\"") || strings.Contains(metrics, "Bearer") {
		t.Fatal("a secret was logged")
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	r := start(t, patience, serve.Part{Name: "disk", Register: (&service{}).register})
	s, err := reflectionv1.NewServerReflectionClient(r.dial()).ServerReflectionInfo(t.Context(), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil || !strings.Contains(got.String(), diskService) {
		t.Fatalf("got %v, %v", got, err)
	}
}
