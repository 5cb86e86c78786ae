package resource

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"orlop.dev/kit/fault"
)

const (
	// bookmarkEvery is how long a watch is silent at most: a bookmark keeps its
	// version fresh, and its connection.
	bookmarkEvery = 30 * time.Second
	// watchBatch is how many changes a watch takes at once.
	watchBatch = 256
)

// Watch yields the changes of the collection in the order they happened, each
// once, until ctx ends or the caller stops; it blocks in between. A watch from
// nothing begins with the present objects, one from a version with a Bookmark that
// tells the store. The last thing it yields may be an error: reason ReasonTooOld
// if the start is no longer known or the caller fell too far behind (then watch
// again from nothing), or the end of ctx.
func (c *Collection[T]) Watch(ctx context.Context, opts WatchOptions) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		for event, err := range c.sharedWatch(ctx, opts) {
			if event.Type != Bookmark && err == nil {
				event.Object = Clone(event.Object)
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// sharedWatch is Watch without the copies: nobody may change its objects.
func (c *Collection[T]) sharedWatch(ctx context.Context, opts WatchOptions) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		w := &watcher[T]{
			collection: c, ctx: ctx, yield: yield,
			prefix: prefixOf(opts.Namespace), selector: opts.Selector,
		}
		err := w.begin(opts)
		if err == nil {
			err = w.follow()
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(Event[T]{}, err)
		}
	}
}

// watcher reads the history at its caller's pace. It has no buffer and no
// goroutine of its own: a slow caller costs nothing, and loses its place in the end.
type watcher[T Object] struct {
	collection *Collection[T]
	ctx        context.Context
	yield      func(Event[T], error) bool
	prefix     string
	selector   labels.Selector
	store      string
	position   uint64
	start      int64 // changes up to here are not asked for
	revision   int64 // changes up to here were told
}

// errStopped is a caller that has seen enough.
var errStopped = errors.New("the caller stopped")

func (w *watcher[T]) begin(opts WatchOptions) error {
	if err := w.collection.replica.ready(); err != nil {
		return err
	}
	w.store = w.collection.StoreID()
	if opts.ResourceVersion == "" {
		return w.beginWithState(opts)
	}
	revision, ok := parseVersion(opts.ResourceVersion)
	if !ok {
		return fault.Refuse("resource_version", "FieldValueInvalid", "is not a version of this service")
	}
	if err := w.beginAfter(revision); err != nil {
		return err
	}
	return w.bookmark(revision)
}

func (w *watcher[T]) beginWithState(opts WatchOptions) error {
	items, revision, position := w.collection.replica.selected(opts.Namespace, opts.Selector)
	w.position, w.revision = position, revision
	for _, object := range items {
		if err := w.tell(Added, object, ""); err != nil {
			return err
		}
	}
	return w.bookmark(revision)
}

// beginAfter finds the place of a version. One that this copy hasn't reached is
// waited for, but not one that etcd itself hasn't: that is of a lost store.
func (w *watcher[T]) beginAfter(revision int64) error {
	r := w.collection.replica
	r.mu.RLock()
	position, known := r.history.after(revision)
	ahead := revision > r.revision
	r.mu.RUnlock()
	if ahead {
		present, err := w.collection.store.revision(w.ctx)
		if err != nil {
			return err
		}
		known = known && revision <= present
	}
	if !known {
		return tooOld()
	}
	w.position, w.start, w.revision = position, revision, revision
	return nil
}

// follow tells changes as they come, and a bookmark where none come.
func (w *watcher[T]) follow() error {
	quiet := time.NewTicker(bookmarkEvery)
	defer quiet.Stop()
	for {
		records, moved, err := w.read()
		if err != nil {
			return err
		}
		for i := range records {
			if err := w.tellRecord(&records[i]); err != nil {
				return err
			}
		}
		if len(records) > 0 {
			quiet.Reset(bookmarkEvery)
			continue
		}
		select {
		case <-moved:
		case <-quiet.C:
			if err := w.bookmark(w.revision); err != nil {
				return err
			}
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
}

// read takes the next records and what to wait for if there are none.
func (w *watcher[T]) read() (records []record[T], moved chan struct{}, err error) {
	r := w.collection.replica
	r.mu.RLock()
	defer r.mu.RUnlock()
	if w.position < r.history.first {
		return nil, nil, tooOld()
	}
	end := min(r.history.next, w.position+watchBatch)
	for ; w.position < end; w.position++ {
		records = append(records, *r.history.at(w.position))
	}
	if len(records) == 0 {
		w.revision = max(w.revision, r.revision) // all that was, was told
	}
	return records, r.moved, nil
}

// tellRecord tells a change as the watch's selection sees it.
func (w *watcher[T]) tellRecord(r *record[T]) error {
	if r.revision <= w.start || !strings.HasPrefix(r.path, w.prefix) {
		return nil
	}
	w.revision = r.revision
	is := r.kind != Deleted && matches(w.selector, r.after)
	was := r.kind != Added && matches(w.selector, r.before)
	switch {
	case is && was:
		return w.tell(Modified, r.after, version(r.revision))
	case is:
		return w.tell(Added, r.after, version(r.revision))
	case was:
		return w.tell(Deleted, r.after, version(r.revision))
	}
	return nil
}

func (w *watcher[T]) bookmark(revision int64) error {
	var none T
	return w.tell(Bookmark, none, version(revision))
}

func (w *watcher[T]) tell(what EventType, object T, at string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if !w.yield(Event[T]{Type: what, Object: object, ResourceVersion: at, Store: w.store}, nil) {
		return errStopped
	}
	return nil
}

func tooOld() error {
	return fault.New(fault.Stale, ReasonTooOld, "the changes since then are no longer all known: list again")
}
