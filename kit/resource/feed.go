package resource

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// loadPage is how many objects one request to etcd reads.
const loadPage = 1000

// maxFeedDelay bounds the pause between attempts to reach etcd.
const maxFeedDelay = 5 * time.Second

var (
	// errWatchEnded is the end of etcd's watch without a word why.
	errWatchEnded = errors.New("the watch of etcd ended")
	// errStoreWentBack is a store that was lost, and begun again or restored.
	errStoreWentBack = errors.New("etcd is at an older revision than before")
)

// feed fills a collection's copy from etcd until ctx ends.
func (c *Collection[T]) feed(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, maxFeedDelay
	for loaded := false; ; {
		err := c.follow(ctx, &loaded, pause)
		if ctx.Err() != nil {
			return
		}
		c.log.WarnContext(ctx, "the copy of the store waits for etcd", slog.Any("error", err))
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return
		}
	}
}

// follow loads the copy where it must, and watches until something breaks. A
// watch that broke goes on where it was, unless etcd has forgotten that.
func (c *Collection[T]) follow(ctx context.Context, loaded *bool, pause *backoff.ExponentialBackOff) error {
	if !*loaded {
		if err := c.load(ctx); err != nil {
			return err
		}
		*loaded = true
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := c.store.client.Watch(ctx, c.store.objects, clientv3.WithPrefix(),
		clientv3.WithRev(c.replica.revision+1), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	for resp := range events {
		if err := resp.Err(); err != nil {
			*loaded = !errors.Is(err, rpctypes.ErrCompacted) && !errors.Is(err, rpctypes.ErrFutureRev)
			return err
		}
		if resp.Header.Revision < c.replica.revision {
			*loaded = false
			return errStoreWentBack
		}
		changes, err := c.changes(resp.Events)
		if err != nil {
			return err
		}
		c.replica.apply(changes, reached(resp), c.lastState)
		pause.Reset()
	}
	return errWatchEnded
}

// reached is the revision up to which everything was told. The header of a
// response with events may be ahead of them; that of a progress notification is
// not.
func reached(resp clientv3.WatchResponse) int64 {
	switch {
	case resp.IsProgressNotify():
		return resp.Header.Revision
	case len(resp.Events) > 0:
		return resp.Events[len(resp.Events)-1].Kv.ModRevision
	}
	return 0
}

// load reads all objects as they were at one moment.
func (c *Collection[T]) load(ctx context.Context) error {
	identity, err := c.store.identify(ctx)
	if err != nil {
		return err
	}
	var items []item[T]
	from, revision := c.store.objects, int64(0)
	for more := true; more; {
		resp, err := c.store.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(c.store.objects)),
			clientv3.WithLimit(loadPage), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			obj, err := c.decode(kv)
			if err != nil {
				return err
			}
			items = append(items, item[T]{path: c.path(kv), object: obj})
		}
		if more = resp.More; more {
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	c.replica.reset(identity, revision, items)
	return nil
}

func (c *Collection[T]) changes(events []*clientv3.Event) ([]change[T], error) {
	changes := make([]change[T], 0, len(events))
	for _, e := range events {
		next := change[T]{path: c.path(e.Kv), revision: e.Kv.ModRevision, removed: e.Type == mvccpb.DELETE}
		if !next.removed {
			obj, err := c.decode(e.Kv)
			if err != nil {
				return nil, err
			}
			next.object = obj
		}
		changes = append(changes, next)
	}
	return changes, nil
}

func (c *Collection[T]) path(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.Key), c.store.objects)
}

// lastState is what a Deleted event shows: the object as it was, with the version
// of its deletion.
func (c *Collection[T]) lastState(before T, revision int64) T {
	last := Clone(before)
	meta(c.kind, last).ResourceVersion = version(revision)
	return last
}
