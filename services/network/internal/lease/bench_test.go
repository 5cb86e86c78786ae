package lease

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"orlop.dev/kit/resource/etcdtest"
)

// BenchmarkAllocate takes addresses of a pool that has leases already, with so
// many callers at once. Each is in etcd, with fsync, before its caller is told.
// Compare the lines: the number of leases must not matter.
func BenchmarkAllocate(b *testing.B) {
	for _, leases := range []int{0, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprint("leases=", leases), func(b *testing.B) {
			store := startLeases(b, etcdtest.Start(b, etcdtest.Durable))
			book := newBook(store, pool(b, "10.64.0.0/14"), newClock().Now)
			fill(b, book, leases)
			var serial atomic.Int64
			for _, callers := range []int{1, 8, 64} {
				b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
					var turn atomic.Int64
					var group sync.WaitGroup
					for range callers {
						group.Go(func() {
							for turn.Add(1) <= int64(b.N) {
								if _, err := book.Pick(context.Background(), owner("bench", fmt.Sprint(serial.Add(1)))); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					group.Wait()
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "addresses/s")
				})
			}
		})
	}
}

// fill takes so many addresses.
func fill(b *testing.B, book *ipBook, count int) {
	b.Helper()
	var group errgroup.Group
	group.SetLimit(256)
	for i := range count {
		group.Go(func() error {
			_, err := book.Pick(context.Background(), owner("fill", fmt.Sprint(i)))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}
