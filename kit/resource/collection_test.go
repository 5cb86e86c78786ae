package resource_test

import (
	"errors"
	"fmt"
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
)

func TestCollectionIsOfItsKindOnly(t *testing.T) {
	if _, err := resource.NewCollection[*imagev1.VirtualImage](etcdtest.Start(t), "/test", diskKind, resource.Options{}); err == nil {
		t.Error("a collection of images was made of disks")
	}
}

func TestUnsyncedCollectionSaysSo(t *testing.T) {
	c, err := resource.NewCollection[*diskv1.VirtualDisk](etcdtest.Start(t), "/test", diskKind, resource.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(key("a"))
	wantFault(t, err, fault.Transient, resource.ReasonNotSynced)
	_, err = c.Create(t.Context(), namedDisk("a"))
	wantFault(t, err, fault.Transient, resource.ReasonNotSynced)
}

func TestReplicasShareTheStore(t *testing.T) {
	store := etcdtest.Start(t)
	one, two := startCollection(t, store, resource.Options{}), startCollection(t, store, resource.Options{})
	if one.StoreID() == "" || one.StoreID() != two.StoreID() {
		t.Errorf("store ids %q and %q, want one", one.StoreID(), two.StoreID())
	}
	// What the other wrote can be changed at once, seen or not.
	for i := range 20 {
		create(t, one, fmt.Sprint("d", i))
		_, err := two.Mutate(t.Context(), key(fmt.Sprint("d", i)), func(d *diskv1.VirtualDisk) error { grow(d); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestObjectsSurviveTheProcess(t *testing.T) {
	store := etcdtest.Start(t)
	want := create(t, startCollection(t, store, resource.Options{}), "a")
	got, err := startCollection(t, store, resource.Options{}).Get(key("a"))
	if err != nil || got.String() != want.String() {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestMutateKeepsIdentity(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	want := create(t, c, "a").GetMetadata()
	got, err := c.Mutate(t.Context(), key("a"), func(d *diskv1.VirtualDisk) error {
		grow(d)
		d.Metadata = &metav1.ObjectMeta{Name: "b", Uid: "x", Holders: []*metav1.Holder{{Uid: "h"}}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m := got.GetMetadata()
	if m.GetName() != "a" || m.GetUid() != want.GetUid() || m.GetGeneration() != 2 || len(m.GetHolders()) != 0 {
		t.Errorf("got %v, want the identity of %v", m, want)
	}
	mine := errors.New("mine")
	if _, err := c.Mutate(t.Context(), key("a"), func(*diskv1.VirtualDisk) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("got %v, want the error of the change", err)
	}
}

func TestUpdateStatus(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	d := create(t, c, "a")
	ready := &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready}
	first, err := c.UpdateStatus(t.Context(), key("a"), d.GetMetadata().GetUid(), ready)
	if err != nil || first.GetStatus().GetPhase() != diskv1.DiskPhase_Ready || first.GetMetadata().GetGeneration() != 1 {
		t.Fatalf("got %v, %v", first, err)
	}
	again, err := c.UpdateStatus(t.Context(), key("a"), "", ready)
	if err != nil || again.GetMetadata().GetResourceVersion() != first.GetMetadata().GetResourceVersion() {
		t.Errorf("got %v, %v: want nothing written", again, err)
	}
	_, err = c.UpdateStatus(t.Context(), key("a"), "another", ready)
	wantFault(t, err, fault.NotFound, resource.ReasonNotFound)
	_, err = c.UpdateStatus(t.Context(), key("a"), "", &metav1.Condition{})
	wantFault(t, err, fault.Internal, fault.ReasonInternal)
}

// A history of few changes makes too old what would take thousands otherwise.
func TestWhatLeftTheHistoryIsTooOld(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{HistoryEvents: 3})
	old := create(t, c, "a").GetMetadata().GetResourceVersion()
	create(t, c, "b")
	page, err := c.List(t.Context(), resource.ListOptions{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	slow := c.Watch(t.Context(), resource.WatchOptions{})
	var slept error
	for e, err := range slow { // a caller that does a lot between two events
		if slept = err; err != nil {
			break
		}
		if e.Type == resource.Bookmark {
			for i := range 5 {
				create(t, c, fmt.Sprint("more", i))
			}
		}
	}
	wantFault(t, slept, fault.Stale, resource.ReasonTooOld)
	for _, err := range c.Watch(t.Context(), resource.WatchOptions{ResourceVersion: old}) {
		wantFault(t, err, fault.Stale, resource.ReasonTooOld)
	}
	_, err = c.List(t.Context(), resource.ListOptions{PageSize: 1, PageToken: page.NextPageToken})
	wantFault(t, err, fault.Stale, resource.ReasonTooOld)
}
