package resource_test

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/resourcetest"
	"orlop.dev/kit/resource/schema"
)

// The tests keep disks: a real kind with a schema, a status and claims.

const namespace = "default"

var diskKind = kind.Must(&diskv1.VirtualDisk{})

func key(name string) resource.Key { return resource.Key{Namespace: namespace, Name: name} }

func newDisk(metadata *metav1.ObjectMeta) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{
		Metadata: metadata,
		Spec:     &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: "1Gi"}},
	}
}

func namedDisk(name string) *diskv1.VirtualDisk {
	return newDisk(&metav1.ObjectMeta{Namespace: namespace, Name: name})
}

var sizes atomic.Int64

func grow(d *diskv1.VirtualDisk) {
	d.Spec.PersistentVolumeClaim.Size = strconv.FormatInt(2+sizes.Add(1), 10) + "Gi"
}

// startCollection runs a collection on a store until the test ends.
func startCollection(t testing.TB, client *clientv3.Client, opts resource.Options) *resource.Collection[*diskv1.VirtualDisk] {
	t.Helper()
	c, err := resource.NewCollection[*diskv1.VirtualDisk](client, "/test", diskKind, opts)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c.Run)
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs f until the test ends.
func run(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func diskSchema(t testing.TB) *schema.Schema {
	t.Helper()
	s, err := schema.Find(crd.FS, diskKind)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serveDisks serves the standard methods through a real gRPC server, and returns
// a connection to it.
func serveDisks(t testing.TB, opts resource.MethodOptions[*diskv1.VirtualDisk]) *grpc.ClientConn {
	t.Helper()
	methods, err := resource.NewMethods(opts)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	if err := resource.Register(server, &diskv1.VirtualDiskService_ServiceDesc, nil, methods); err != nil {
		t.Fatal(err)
	}
	return connect(t, server)
}

func connect(t testing.TB, server *grpc.Server) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///disks",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func diskClient(t testing.TB, conn grpc.ClientConnInterface) *resource.Client[*diskv1.VirtualDisk] {
	t.Helper()
	c, err := resource.NewClient[*diskv1.VirtualDisk](conn, diskKind)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConformanceOfCollection(t *testing.T) {
	client := etcdtest.Start(t)
	resourcetest.Run(t, func(t *testing.T) resourcetest.Subject[*diskv1.VirtualDisk] {
		return withDisks(resourcetest.OfCollection(startCollection(t, emptied(t, client), resource.Options{})))
	})
}

func TestConformanceOverGRPC(t *testing.T) {
	client := etcdtest.Start(t)
	judge := diskSchema(t)
	resourcetest.Run(t, func(t *testing.T) resourcetest.Subject[*diskv1.VirtualDisk] {
		c := startCollection(t, emptied(t, client), resource.Options{Schema: judge})
		conn := serveDisks(t, resource.MethodOptions[*diskv1.VirtualDisk]{Collection: c, Schema: judge})
		return withDisks(resourcetest.OfClient(diskClient(t, conn)))
	})
}

// emptied empties the store: one server serves all tests of a suite.
func emptied(t *testing.T, client *clientv3.Client) *clientv3.Client {
	t.Helper()
	if _, err := client.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	return client
}

func withDisks(s resourcetest.Subject[*diskv1.VirtualDisk]) resourcetest.Subject[*diskv1.VirtualDisk] {
	s.New, s.ChangeSpec = newDisk, grow
	return s
}
