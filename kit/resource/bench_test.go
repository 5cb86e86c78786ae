package resource_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
)

// Creates are durable and seen by the copy: what a caller waits for.
func BenchmarkCreate(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := startCollection(b, etcdtest.Start(b, etcdtest.Durable), resource.Options{})
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range writers {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						create(b, c, fmt.Sprintf("d%d", i))
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
		})
	}
}

const many = 10_000

func fill(b *testing.B, c *resource.Collection[*diskv1.VirtualDisk]) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := next.Add(1); i <= many; i = next.Add(1) {
				create(b, c, fmt.Sprintf("d%05d", i))
			}
		})
	}
	all.Wait()
}

// BenchmarkList10k reads 10,000 objects page by page, and says what the copy of
// them costs in memory.
func BenchmarkList10k(b *testing.B) {
	store := etcdtest.Start(b)
	fill(b, startCollection(b, store, resource.Options{}))
	before := heapBytes()
	c := startCollection(b, store, resource.Options{})
	copyBytes := heapBytes() - before
	b.ResetTimer()
	for range b.N {
		n, opts := 0, resource.ListOptions{PageSize: 1000}
		for {
			page, err := c.List(b.Context(), opts)
			if err != nil {
				b.Fatal(err)
			}
			n += len(page.Items)
			if opts.PageToken = page.NextPageToken; opts.PageToken == "" {
				break
			}
		}
		if n != many {
			b.Fatalf("%d objects, want %d", n, many)
		}
	}
	b.ReportMetric(float64(copyBytes)/(1<<20), "copy-MiB")
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkWatchFanOut is one write told to 100 watchers.
func BenchmarkWatchFanOut(b *testing.B) {
	const watchers = 100
	c := startCollection(b, etcdtest.Start(b), resource.Options{})
	create(b, c, "a")
	ctx, cancel := context.WithCancel(b.Context())
	var began, told, ended sync.WaitGroup
	began.Add(watchers)
	for range watchers {
		ended.Go(func() {
			for e, err := range c.Watch(ctx, resource.WatchOptions{}) {
				switch {
				case err != nil:
					return
				case e.Type == resource.Bookmark:
					began.Done()
				case e.Type == resource.Modified:
					told.Done()
				}
			}
		})
	}
	began.Wait()
	b.ResetTimer()
	for i := range b.N {
		told.Add(watchers)
		_, err := c.Mutate(b.Context(), key("a"), func(d *diskv1.VirtualDisk) error {
			d.Metadata.Labels = map[string]string{"n": fmt.Sprint(i)}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		told.Wait()
	}
	b.StopTimer()
	cancel()
	ended.Wait()
}

// BenchmarkGet is a read of one object, the caller's own copy.
func BenchmarkGet(b *testing.B) {
	c := startCollection(b, etcdtest.Start(b), resource.Options{})
	if _, err := c.Create(b.Context(), newDisk(&metav1.ObjectMeta{Namespace: namespace, Name: "a"})); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Get(key("a")); err != nil {
			b.Fatal(err)
		}
	}
}
