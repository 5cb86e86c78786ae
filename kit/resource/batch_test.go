package resource_test

import (
	"errors"
	"fmt"
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
)

// stage adds the making of disks to a batch.
func stage(t *testing.T, c *resource.Collection[*diskv1.VirtualDisk], b *resource.Batch, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := c.StageCreate(b, c.Newborn(namedDisk(name))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBatchMakesAndChangesObjectsOfSeveralCollectionsAtOnce(t *testing.T) {
	store := etcdtest.Start(t)
	one, two := startCollection(t, store, resource.Options{}), startCollection(t, store, resource.Options{})
	before := create(t, one, "a")
	b := new(resource.Batch)
	stage(t, one, b, "b", "c")
	stage(t, two, b, "d")
	next := resource.Clone(before)
	grow(next)
	next.Metadata.Uid = "another"
	if err := errors.Join(one.StageChange(b, before, next), b.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	versions := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		d, err := one.Get(key(name)) // is seen at once
		if err != nil {
			t.Fatal(err)
		}
		versions[d.GetMetadata().GetResourceVersion()] = true
		if d.GetMetadata().GetUid() == "" || name == "a" && (d.GetMetadata().GetUid() != before.GetMetadata().GetUid() || d.GetMetadata().GetGeneration() != 2) {
			t.Errorf("stored as %v", d.GetMetadata())
		}
	}
	if _, err := two.Get(key("d")); err != nil || len(versions) != 1 {
		t.Errorf("%d transactions, %v", len(versions), err)
	}
}

func TestBatchThatIsTooLateWritesNothingAndSaysWhichWasLost(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	before := create(t, c, "taken")
	changed, err := c.Mutate(t.Context(), key("taken"), func(d *diskv1.VirtualDisk) error { grow(d); return nil })
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		add   func(*resource.Batch) error
		class fault.Class
	}{
		"a name that is taken": {func(b *resource.Batch) error { return c.StageCreate(b, c.Newborn(namedDisk("taken"))) }, fault.Exists},
		"a change of what was": {func(b *resource.Batch) error { return c.StageChange(b, before, before) }, fault.Stale},
		"a change of what is no": {func(b *resource.Batch) error {
			d := c.Newborn(namedDisk("gone"))
			d.Metadata.ResourceVersion = "1"
			return c.StageChange(b, d, d)
		}, fault.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			b := new(resource.Batch)
			stage(t, c, b, "new")
			if err := test.add(b); err != nil {
				t.Fatal(err)
			}
			err := b.Commit(t.Context())
			var lost *resource.LostError
			if !errors.As(err, &lost) || lost.Key == key("new") || lost.Kind != "VirtualDisk" || !fault.Is(err, test.class) {
				t.Errorf("got %v, want class %s", err, test.class)
			}
			if _, err := c.Get(key("new")); !fault.Is(err, fault.NotFound) {
				t.Errorf("the other one is there: %v", err)
			}
		})
	}
	if now, err := c.Get(key("taken")); err != nil || now.GetMetadata().GetResourceVersion() != changed.GetMetadata().GetResourceVersion() {
		t.Errorf("it was written: %v, %v", now, err)
	}
}

func TestBatchRefusesToWriteAnObjectTwice(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	b := new(resource.Batch)
	stage(t, c, b, "a")
	if err := c.StageCreate(b, c.Newborn(namedDisk("a"))); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v", err)
	}
}

func TestBatchIsOfTheSizeThatItSays(t *testing.T) {
	c := startCollection(t, etcdtest.Start(t), resource.Options{})
	names := make([]string, resource.BatchSize)
	for i := range names {
		names[i] = fmt.Sprint("d", i)
	}
	b := new(resource.Batch)
	stage(t, c, b, names...)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	stage(t, c, b, "more")
	if err := b.Commit(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("a larger one: %v", err)
	}
	if err := new(resource.Batch).Commit(t.Context()); err != nil {
		t.Error(err)
	}
}
