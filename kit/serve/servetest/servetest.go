// Package servetest runs services for tests: behind a real gRPC server, with
// stand-ins for the services that they call.
package servetest

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

// Patience bounds what must happen; no test waits for it to pass.
const Patience = 2 * time.Minute

// Quiet is a logger that says nothing.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Host runs parts behind a real gRPC server, until stop or the end of the test.
func Host(t testing.TB, parts ...serve.Part) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	stop = Serve(t, listener, parts...)
	conn, err := grpc.NewClient("passthrough:///test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, stop
}

// Serve is Host for other processes, which connect to where listener listens.
func Serve(t testing.TB, listener net.Listener, parts ...serve.Part) (stop func()) {
	t.Helper()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(parts))
	for _, part := range parts {
		check(t, part.Register(server))
		go func() {
			if part.Run == nil {
				done <- nil
				return
			}
			done <- part.Run(ctx)
		}()
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		server.Stop()
		cancel()
		for range parts {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	for _, part := range parts {
		if part.Ready != nil {
			check(t, part.Ready(t.Context()))
		}
	}
	go func() { _ = server.Serve(listener) }() // ends with Stop
	return stop
}

// StandIn serves the methods of another service's kind, whose claims it answers
// with answer. Nothing reconciles it but the test.
func StandIn[T resource.Object](t testing.TB, client *clientv3.Client, desc *grpc.ServiceDesc, answer proto.Message) (*resource.Collection[T], serve.Part) {
	t.Helper()
	return StandInBy(t, client, desc, func(T) proto.Message { return answer })
}

// StandInBy is StandIn where claims of each object are answered by themselves.
func StandInBy[T resource.Object](t testing.TB, client *clientv3.Client, desc *grpc.ServiceDesc, answer func(T) proto.Message) (*resource.Collection[T], serve.Part) {
	t.Helper()
	var none T
	k := kind.Must(none)
	collection, err := resource.NewCollection[T](client, "/other", k, resource.Options{Logger: Quiet()})
	check(t, err)
	methods, err := resource.NewMethods(resource.MethodOptions[T]{
		Collection: collection,
		Holding: &resource.Holding[T]{
			Answer: func(_ context.Context, object T, _ *metav1.Holder) (proto.Message, error) { return answer(object), nil },
		},
	})
	check(t, err)
	return collection, serve.Part{
		Name:     k.Name,
		Register: func(s grpc.ServiceRegistrar) error { return resource.Register(s, desc, nil, methods) },
		Ready:    collection.WaitSynced,
		Run:      collection.Run,
	}
}

// Await returns an object as soon as it is as wanted.
func Await[T resource.Object](t testing.TB, client *resource.Client[T], at resource.Key, what string, wanted func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var last T
	for event, err := range client.Watch(ctx, resource.WatchOptions{Namespace: at.Namespace}) {
		if err != nil {
			t.Fatalf("%s never %s: %v; it was %v", at, what, err, last)
		}
		if event.Type != resource.Bookmark && event.Type != resource.Deleted && resource.KeyOf(event.Object) == at {
			if last = event.Object; wanted(last) {
				break
			}
		}
	}
	return last
}

// AwaitGone waits until an object is no more.
func AwaitGone[T resource.Object](t testing.TB, client *resource.Client[T], at resource.Key) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := client.Get(t.Context(), at); fault.Is(err, fault.NotFound) {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s stays", at)
		case <-again.C:
		}
	}
}

// ClientOf returns a client of the kind of T over a connection.
func ClientOf[T resource.Object](t testing.TB, conn grpc.ClientConnInterface) *resource.Client[T] {
	t.Helper()
	var none T
	client, err := resource.NewClient[T](conn, kind.Must(none))
	check(t, err)
	return client
}
