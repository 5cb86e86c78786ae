package record_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/record"
)

type tally struct {
	record.Version

	Count int    `json:"count"`
	Word  string `json:"word,omitempty"`
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	client := etcdtest.Start(t)
	tallies := record.New[tally](client, "/a/")
	read, err := tallies.Get(t.Context(), "one")
	check(t, err)
	if read.Exists() || read.Count != 0 {
		t.Errorf("before it was written it is %+v", read)
	}
	read.Count, read.Word = 1, "first"
	check(t, tallies.Put(t.Context(), "one", read))
	read.Count = 2
	check(t, tallies.Put(t.Context(), "one", read)) // who wrote it goes on
	check(t, tallies.Put(t.Context(), "two", &tally{Count: 5}))
	check(t, record.New[tally](client, "/other/").Put(t.Context(), "one", &tally{Count: 9}))

	read, err = record.New[tally](client, "/a/").Get(t.Context(), "one")
	check(t, err)
	if !read.Exists() || read.Count != 2 || read.Word != "first" {
		t.Errorf("it is %+v", read)
	}
	all, err := tallies.All(t.Context())
	check(t, err)
	if len(all) != 2 || all[0].Count != 2 || all[1].Count != 5 {
		t.Errorf("there are %+v", all)
	}
	for range 2 {
		check(t, tallies.Delete(t.Context(), "one"))
	}
	if read, err = tallies.Get(t.Context(), "one"); err != nil || read.Exists() {
		t.Errorf("after it was deleted it is %+v, %v", read, err)
	}
}

func TestRecordThatWasChangedMeanwhileIsNotOverwritten(t *testing.T) {
	tallies := record.New[tally](etcdtest.Start(t), "/a/")
	early, err := tallies.Get(t.Context(), "one")
	check(t, err)
	check(t, tallies.Put(t.Context(), "one", &tally{Count: 1}))
	early.Count = 7
	if err := tallies.Put(t.Context(), "one", early); !fault.Is(err, fault.Stale) || fault.From(err).Reason != record.ReasonChanged {
		t.Errorf("the answer is %v", err)
	}
	if now, err := tallies.Get(t.Context(), "one"); err != nil || now.Count != 1 {
		t.Errorf("it is %+v, %v", now, err)
	}
}

func TestConcurrentChangesAllCount(t *testing.T) {
	tallies := record.New[tally](etcdtest.Start(t), "/a/")
	var group errgroup.Group
	const writers, times = 4, 25
	for range writers {
		group.Go(func() error {
			for range times {
				if err := tallies.Change(t.Context(), "one", func(c *tally) { c.Count++ }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	check(t, group.Wait())
	if now, err := tallies.Get(t.Context(), "one"); err != nil || now.Count != writers*times {
		t.Errorf("it is %+v, %v", now, err)
	}
}

// following keeps a store's copy for as long as the test takes.
func following(t *testing.T, s *record.Store[tally, *tally]) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error { return s.Follow(ctx) })
	t.Cleanup(func() {
		cancel()
		check(t, group.Wait())
	})
}

func TestACopyHasWhatWasWrittenHereAtOnce(t *testing.T) {
	client := etcdtest.Start(t)
	tallies := record.New[tally](client, "/a/")
	check(t, tallies.Put(t.Context(), "before", &tally{Count: 1}))
	following(t, tallies)
	for n := range 200 { // some of them while the copy is being made
		own := &tally{Count: n}
		check(t, tallies.Put(t.Context(), fmt.Sprintf("%03d", n), own))
		own.Count = -1 // the writer's, not the copy's
		all, err := tallies.All(t.Context())
		check(t, err)
		if len(all) != n+2 || all[n].Count != n || all[n+1].Count != 1 {
			t.Fatalf("after %d were written there are %d", n+1, len(all))
		}
	}
	check(t, tallies.Delete(t.Context(), "000"))
	all, err := tallies.All(t.Context())
	check(t, err)
	if len(all) != 200 || all[0].Count != 1 {
		t.Errorf("after one was deleted there are %d", len(all))
	}
}

func TestACopyLearnsWhatOthersWrote(t *testing.T) {
	client := etcdtest.Start(t)
	tallies, others := record.New[tally](client, "/a/"), record.New[tally](client, "/a/")
	following(t, tallies)
	sees := func(want ...int) {
		t.Helper()
		var seen []int
		for ctx := t.Context(); !slices.Equal(seen, want); {
			all, err := tallies.All(ctx)
			check(t, err)
			seen = nil
			for _, one := range all {
				seen = append(seen, one.Count)
			}
		}
	}
	check(t, others.Put(t.Context(), "one", &tally{Count: 1}))
	check(t, others.Put(t.Context(), "two", &tally{Count: 2}))
	sees(1, 2)
	check(t, others.Delete(t.Context(), "one"))
	sees(2)
	check(t, tallies.Delete(t.Context(), "two"))
	check(t, others.Put(t.Context(), "two", &tally{Count: 3}))
	sees(3)
}
