package resource_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
)

const patience = 30 * time.Second

// mirrored is a mirror of any kind, as the facade has it, and what it told.
type mirrored struct {
	*resource.Mirror[resource.Object]
	events chan string
}

func startMirror(t *testing.T, conn grpc.ClientConnInterface) mirrored {
	t.Helper()
	client, err := resource.NewClient[resource.Object](conn, diskKind)
	if err != nil {
		t.Fatal(err)
	}
	m := mirrored{events: make(chan string, 1000)}
	m.Mirror = resource.NewMirror(client, resource.MirrorOptions[resource.Object]{Handler: func(e resource.Event[resource.Object]) {
		text := e.Type.String()
		if e.Object != nil {
			text += " " + e.Object.GetMetadata().GetName()
		}
		m.events <- text
	}})
	run(t, m.Run)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.WaitSynced(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m mirrored) want(t *testing.T, events ...string) {
	t.Helper()
	for _, want := range events {
		select {
		case got := <-m.events:
			if got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%q was not told", want)
		}
	}
}

func TestMirrorFollowsItsKind(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	create(t, c, "a")
	m := startMirror(t, serveDisks(t, resource.MethodOptions[*diskv1.VirtualDisk]{Collection: c}))
	m.want(t, "Added a", "Bookmark")
	create(t, c, "b")
	if _, err := c.Mutate(t.Context(), key("a"), func(d *diskv1.VirtualDisk) error { grow(d); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(t.Context(), key("b"), resource.Preconditions{}); err != nil {
		t.Fatal(err)
	}
	m.want(t, "Added b", "Modified a", "Deleted b")
	if got := m.List(namespace, nil); len(got) != 1 {
		t.Errorf("%d objects are mirrored, want 1", len(got))
	}
	if m.Store() != c.StoreID() {
		t.Errorf("store %q, want %q", m.Store(), c.StoreID())
	}
}

func TestMirrorFindsWhatAHolderHas(t *testing.T) {
	serving := startHolding(t)
	for _, name := range []string{"a", "b", "c"} {
		create(t, serving.Collection, name)
	}
	m := startMirror(t, serving.conn)
	has := func(uid string, want ...string) {
		t.Helper()
		var names []string
		for _, disk := range m.HeldBy(uid) {
			names = append(names, disk.GetMetadata().GetName())
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s has %v, want %v", uid, names, want)
		}
	}
	claim := func(name, uid string) {
		t.Helper()
		if err := m.Client().Claim(t.Context(), key(name), holder(uid), &diskv1.Volume{}); err != nil {
			t.Fatal(err)
		}
	}
	has("vm1")
	m.want(t, "Added a", "Added b", "Added c", "Bookmark")
	claim("b", "vm1")
	claim("a", "vm1")
	claim("c", "vm2")
	m.want(t, "Modified b", "Modified a", "Modified c")
	has("vm1", "a", "b")
	has("vm2", "c")
	if err := m.Client().Release(t.Context(), key("a"), "vm1"); err != nil {
		t.Fatal(err)
	}
	m.want(t, "Modified a")
	has("vm1", "b")
	if err := m.Client().Release(t.Context(), key("b"), "vm1"); err != nil {
		t.Fatal(err)
	}
	m.want(t, "Modified b")
	has("vm1")
}

// A response must count at once: the watch may tell it late, or first.
func TestMirrorShowsResponsesAtOnce(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	m := startMirror(t, serveDisks(t, resource.MethodOptions[*diskv1.VirtualDisk]{Collection: c}))
	for range 50 {
		created, err := m.Client().Create(t.Context(), namedDisk("a"), resource.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.Get(key("a")); !ok {
			t.Fatal("the mirror doesn't show what was created")
		}
		if _, err := m.Client().Delete(t.Context(), key("a"), resource.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		m.Observe(created) // an older response that comes late
		if _, ok := m.Get(key("a")); ok {
			t.Fatal("the mirror shows what was deleted")
		}
	}
}

// While the service is down a mirror keeps what it knows, and then catches up.
func TestMirrorSurvivesItsService(t *testing.T) {
	store := etcdtest.Start(t)
	c := startCollection(t, store, resource.Options{})
	create(t, c, "stays")
	create(t, c, "goes")
	address := filepath.Join(t.TempDir(), "s")
	stop := serveAt(t, address, c)
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := startMirror(t, conn)
	m.want(t, "Added goes", "Added stays", "Bookmark")

	stop()
	if _, err := c.Delete(t.Context(), key("goes"), resource.Preconditions{}); err != nil {
		t.Fatal(err)
	}
	// A new process knows nothing of the versions before its start.
	again := startCollection(t, store, resource.Options{})
	serveAt(t, address, again)
	m.want(t, "Deleted goes", "Bookmark")
	if _, ok := m.Get(key("stays")); !ok {
		t.Error("what wasn't deleted is gone")
	}
}

// A store that was lost says nothing about its objects: they are not told as
// deleted.
func TestMirrorForgetsALostStore(t *testing.T) {
	lost, fresh := etcdtest.Start(t), etcdtest.Start(t)
	c := startCollection(t, lost, resource.Options{})
	create(t, c, "a")
	address := filepath.Join(t.TempDir(), "s")
	stop := serveAt(t, address, c)
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := startMirror(t, conn)
	m.want(t, "Added a", "Bookmark")

	stop()
	serveAt(t, address, startCollection(t, fresh, resource.Options{}))
	m.want(t, "Bookmark")
	if _, ok := m.Get(key("a")); ok {
		t.Error("an object of the lost store is still shown")
	}
	if m.Store() == c.StoreID() {
		t.Error("the store still has its old identity")
	}
}

// serveAt serves disks on a socket until stop, or the end of the test.
func serveAt(t *testing.T, address string, c *resource.Collection[*diskv1.VirtualDisk]) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	methods, err := resource.NewMethods(resource.MethodOptions[*diskv1.VirtualDisk]{Collection: c})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	if err := resource.Register(server, &diskv1.VirtualDiskService_ServiceDesc, nil, methods); err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	return server.Stop
}

func create(t testing.TB, c *resource.Collection[*diskv1.VirtualDisk], name string) *diskv1.VirtualDisk {
	t.Helper()
	obj, err := c.Create(t.Context(), newDisk(&metav1.ObjectMeta{Namespace: namespace, Name: name}))
	if err != nil {
		t.Fatal(err)
	}
	return obj
}
