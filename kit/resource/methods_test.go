package resource_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
)

// methods is a served kind, and both ways to it.
type methods struct {
	*resource.Collection[*diskv1.VirtualDisk]
	client *resource.Client[*diskv1.VirtualDisk]
	raw    diskv1.VirtualDiskServiceClient
	conn   grpc.ClientConnInterface
}

func startMethods(t *testing.T, opts resource.MethodOptions[*diskv1.VirtualDisk], finalizers ...string) methods {
	t.Helper()
	opts.Collection = startCollection(t, etcdtest.Start(t), resource.Options{Finalizers: finalizers})
	opts.Schema = diskSchema(t)
	conn := serveDisks(t, opts)
	return methods{opts.Collection, diskClient(t, conn), diskv1.NewVirtualDiskServiceClient(conn), conn}
}

func wantFault(t *testing.T, err error, class fault.Class, reason string) {
	t.Helper()
	if fault.ClassOf(err) != class || fault.ReasonOf(err) != reason {
		t.Errorf("got %v (%s, %s), want %s, %s", err, fault.ClassOf(err), fault.ReasonOf(err), class, reason)
	}
}

func wantField(t *testing.T, err error, path string) {
	t.Helper()
	wantFault(t, err, fault.Invalid, fault.ReasonInvalid)
	for _, f := range fault.From(err).Fields {
		if f.Path == path {
			return
		}
	}
	t.Errorf("refused %+v, want %s (%v)", fault.From(err).Fields, path, err)
}

func TestCreateRefusesWhatBreaksARule(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{})
	cases := []struct {
		name  string
		spoil func(*diskv1.CreateVirtualDiskRequest)
		path  string
	}{
		{"no object", func(r *diskv1.CreateVirtualDiskRequest) { r.Namespace, r.VirtualDisk = namespace, nil }, "spec"},
		{"no namespace", func(r *diskv1.CreateVirtualDiskRequest) { r.VirtualDisk.Metadata.Namespace = "" }, "metadata.namespace"},
		{"two namespaces", func(r *diskv1.CreateVirtualDiskRequest) { r.Namespace = "other" }, "metadata.namespace"},
		{"no name", func(r *diskv1.CreateVirtualDiskRequest) { r.VirtualDisk.Metadata.Name = "" }, "metadata.name"},
		{"capitals in the name", func(r *diskv1.CreateVirtualDiskRequest) { r.VirtualDisk.Metadata.Name = "Disk" }, "metadata.name"},
		{"another kind", func(r *diskv1.CreateVirtualDiskRequest) { r.VirtualDisk.Kind = "VirtualImage" }, "kind"},
		{"a bad label", func(r *diskv1.CreateVirtualDiskRequest) {
			r.VirtualDisk.Metadata.Labels = map[string]string{"a b": "c"}
		}, "metadata.labels"},
		{"an owner without a UID", func(r *diskv1.CreateVirtualDiskRequest) {
			r.VirtualDisk.Metadata.OwnerReferences = []*metav1.OwnerReference{{ApiVersion: "v1", Kind: "K", Name: "n"}}
		}, "metadata.ownerReferences.uid"},
		{"a rule across fields", func(r *diskv1.CreateVirtualDiskRequest) { r.VirtualDisk.Spec.PersistentVolumeClaim = nil }, "spec"},
		{"an enum's undefined number", func(r *diskv1.CreateVirtualDiskRequest) {
			r.VirtualDisk.Spec.DataSource = &diskv1.DiskDataSource{Type: imagev1.DataSourceType_Value(77)}
		}, "spec.dataSource.type"},
		{"a request id that is none", func(r *diskv1.CreateVirtualDiskRequest) { r.RequestId = "1" }, "request_id"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req := &diskv1.CreateVirtualDiskRequest{VirtualDisk: namedDisk("a")}
			c.spoil(req)
			_, err := m.raw.CreateVirtualDisk(t.Context(), req)
			wantField(t, err, c.path)
		})
	}
}

func TestValidateOnlyStoresNothing(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{})
	ctx, try := t.Context(), resource.WriteOptions{ValidateOnly: true}
	if _, err := m.client.Create(ctx, namedDisk("a"), try); err != nil {
		t.Fatal(err)
	}
	_, err := m.Get(key("a"))
	wantFault(t, err, fault.NotFound, resource.ReasonNotFound)

	stored := create(t, m.Collection, "a")
	_, err = m.client.Create(ctx, namedDisk("a"), try)
	wantFault(t, err, fault.Exists, resource.ReasonAlreadyExists)
	changed := resource.Clone(stored)
	grow(changed)
	tried, err := m.client.Update(ctx, changed, resource.UpdateOptions{WriteOptions: try})
	if err != nil || tried.GetMetadata().GetGeneration() != 2 {
		t.Errorf("got %v, %v: want what would be", tried, err)
	}
	if _, err := m.client.Delete(ctx, key("a"), resource.DeleteOptions{WriteOptions: try}); err != nil {
		t.Error(err)
	}
	if now, err := m.Get(key("a")); err != nil || !proto.Equal(now, stored) {
		t.Errorf("got %v, %v: want it unchanged", now, err)
	}
}

func TestAdmitIsAskedForEachWrite(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{
		Admit: func(_ context.Context, old, new *diskv1.VirtualDisk) error {
			switch {
			case old == nil && new.GetMetadata().GetName() == "never":
				return fault.New(fault.Denied, "NeverCreate", "never")
			case new == nil:
				return fault.New(fault.NotReady, "NeverDelete", "never")
			case old != nil && !proto.Equal(old.GetSpec(), new.GetSpec()):
				return fault.New(fault.Denied, "NeverChange", "never")
			}
			return nil
		},
	})
	_, err := m.client.Create(t.Context(), namedDisk("never"), resource.WriteOptions{})
	wantFault(t, err, fault.Denied, "NeverCreate")
	d, err := m.client.Create(t.Context(), namedDisk("a"), resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	grow(d)
	_, err = m.client.Update(t.Context(), d, resource.UpdateOptions{})
	wantFault(t, err, fault.Denied, "NeverChange")
	_, err = m.client.Delete(t.Context(), key("a"), resource.DeleteOptions{})
	wantFault(t, err, fault.NotReady, "NeverDelete")
}

func TestRepeatedRequestGetsTheFirstAnswer(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{})
	ctx := t.Context()
	once := resource.WriteOptions{RequestID: uuid.NewString()}
	first, err := m.client.Create(ctx, namedDisk("a"), once)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.client.Create(ctx, namedDisk("a"), once)
	if err != nil || !proto.Equal(first, again) {
		t.Errorf("got %v, %v, want %v", again, err, first)
	}
	_, err = m.client.Create(ctx, namedDisk("b"), once)
	wantField(t, err, "request_id")

	change := resource.UpdateOptions{WriteOptions: resource.WriteOptions{RequestID: uuid.NewString()}}
	wanted := resource.Clone(first)
	grow(wanted)
	updated, err := m.client.Update(ctx, wanted, change)
	if err != nil {
		t.Fatal(err)
	}
	again, err = m.client.Update(ctx, wanted, change) // by itself it would be Stale now
	if err != nil || !proto.Equal(updated, again) {
		t.Errorf("got %v, %v, want %v", again, err, updated)
	}

	remove := resource.DeleteOptions{WriteOptions: resource.WriteOptions{RequestID: uuid.NewString()}}
	for range 2 { // by itself the second would be NotFound
		if gone, err := m.client.Delete(ctx, key("a"), remove); err != nil || !resource.Gone(gone) {
			t.Errorf("got %v, %v: want it gone", gone, err)
		}
	}
}

func TestUpdateMask(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{})
	cases := []struct {
		paths         []string
		size, a, b    string // what is left after the update
		refused       bool
		keepsOldClass bool
	}{
		{paths: nil, size: "2Gi", a: "new", b: ""},
		{paths: []string{"*"}, size: "2Gi", a: "new", b: ""},
		{paths: []string{"spec"}, size: "2Gi", a: "old", b: "old"},
		{paths: []string{"spec.persistentVolumeClaim.size"}, size: "2Gi", a: "old", b: "old", keepsOldClass: true},
		{paths: []string{"spec.persistent_volume_claim.size"}, size: "2Gi", a: "old", b: "old", keepsOldClass: true},
		{paths: []string{"metadata"}, size: "1Gi", a: "new", b: "", keepsOldClass: true},
		{paths: []string{"metadata.labels"}, size: "1Gi", a: "new", b: "", keepsOldClass: true},
		{paths: []string{"metadata.labels.`x.io/a`"}, size: "1Gi", a: "new", b: "old", keepsOldClass: true},
		{paths: []string{"metadata.labels.b"}, size: "1Gi", a: "old", b: "", keepsOldClass: true},
		{paths: []string{"metadata.name", "kind"}, size: "1Gi", a: "old", b: "old", keepsOldClass: true},
		{paths: []string{"spec.nonsense"}, refused: true},
		{paths: []string{"status"}, refused: true},
		{paths: []string{"status.phase"}, refused: true},
		{paths: []string{"metadata.labels.a.b"}, refused: true},
	}
	for _, c := range cases {
		name := "d" + uuid.NewString()
		old := namedDisk(name)
		old.Metadata.Labels = map[string]string{"x.io/a": "old", "b": "old"}
		old.Spec.PersistentVolumeClaim.StorageClassName = "old"
		if _, err := m.Create(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		wanted := namedDisk(name)
		wanted.Metadata.Labels = map[string]string{"x.io/a": "new"}
		wanted.Spec.PersistentVolumeClaim.Size = "2Gi"
		got, err := m.raw.UpdateVirtualDisk(t.Context(), &diskv1.UpdateVirtualDiskRequest{
			Namespace: namespace, Name: name, VirtualDisk: wanted, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.paths}})
		if c.refused {
			wantField(t, err, "update_mask")
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.paths, err)
			continue
		}
		claim, labels := got.GetSpec().GetPersistentVolumeClaim(), got.GetMetadata().GetLabels()
		if claim.GetSize() != c.size || labels["x.io/a"] != c.a || labels["b"] != c.b || (claim.GetStorageClassName() == "old") != c.keepsOldClass {
			t.Errorf("%q leaves %v with labels %v", c.paths, claim, labels)
		}
	}
}

func TestAllowMissing(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{})
	_, err := m.client.Update(t.Context(), namedDisk("a"), resource.UpdateOptions{})
	wantFault(t, err, fault.NotFound, resource.ReasonNotFound)
	if _, err := m.client.Update(t.Context(), namedDisk("a"), resource.UpdateOptions{AllowMissing: true}); err != nil {
		t.Error(err)
	}
	if _, err := m.client.Delete(t.Context(), key("b"), resource.DeleteOptions{AllowMissing: true}); err != nil {
		t.Error(err)
	}
}

func TestCallersDontTouchStatusNorTheServicesFinalizers(t *testing.T) {
	m := startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{}, "example.com/own")
	d := namedDisk("a")
	d.Status = &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready}
	d, err := m.client.Create(t.Context(), d, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d.Status != nil {
		t.Error("a caller has written status")
	}
	d.Metadata.Finalizers = nil
	d.Status = &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready}
	if d, err = m.client.Update(t.Context(), d, resource.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(d.Metadata.Finalizers) != 1 || d.Status != nil {
		t.Errorf("got %v: want the finalizer kept and no status", d)
	}
	if _, err := m.client.Delete(t.Context(), key("a"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	last, err := m.RemoveFinalizer(t.Context(), key("a"), "example.com/own")
	if err != nil || !resource.Gone(last) {
		t.Errorf("got %v, %v: want it gone", last, err)
	}
}
