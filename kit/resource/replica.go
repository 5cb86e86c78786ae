package resource

import (
	"context"
	"strings"
	"sync"

	"github.com/google/btree"

	"orlop.dev/kit/fault"
)

// treeDegree is the fan-out of the copy's tree; google/btree's own benchmarks are
// flat around it.
const treeDegree = 32

// item is an object in the copy. Objects in it are shared and never changed.
type item[T Object] struct {
	path   string
	object T
}

// replica is the copy of a collection in memory, and its recent history. One
// goroutine writes it; any number read.
type replica[T Object] struct {
	mu       sync.RWMutex
	tree     *btree.BTreeG[item[T]]
	history  history[T]
	revision int64
	store    string
	moved    chan struct{} // closed, and made anew, when revision or history move

	synced   chan struct{} // closed once the copy is first complete
	syncOnce sync.Once
}

func newReplica[T Object](historyEvents int) *replica[T] {
	return &replica[T]{
		tree:    newTree[T](),
		history: newHistory[T](historyEvents),
		moved:   make(chan struct{}),
		synced:  make(chan struct{}),
	}
}

func newTree[T Object]() *btree.BTreeG[item[T]] {
	return btree.NewG(treeDegree, func(a, b item[T]) bool { return a.path < b.path })
}

// reset makes items, which are sorted, the state at revision. What happened before
// is forgotten: whoever watches begins anew.
func (r *replica[T]) reset(store string, revision int64, items []item[T]) {
	tree := newTree[T]()
	for _, i := range items {
		tree.ReplaceOrInsert(i)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree, r.store, r.revision = tree, store, revision
	r.history.forget(revision)
	r.announce()
	r.syncOnce.Do(func() { close(r.synced) })
}

// change is an object's new state at a revision; the object is absent if removed.
type change[T Object] struct {
	path     string
	revision int64
	object   T
	removed  bool
}

// apply takes the changes up to and including revision.
func (r *replica[T]) apply(changes []change[T], revision int64, last func(before T, revision int64) T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		if c.revision <= r.revision {
			continue // seen before a reconnection
		}
		if c.removed {
			r.remove(c, last)
		} else {
			r.put(c)
		}
	}
	r.revision = max(r.revision, revision)
	r.announce()
}

func (r *replica[T]) put(c change[T]) {
	entry := record[T]{revision: c.revision, kind: Added, path: c.path, after: c.object}
	if old, had := r.tree.ReplaceOrInsert(item[T]{path: c.path, object: c.object}); had {
		entry.kind, entry.before = Modified, old.object
	}
	r.history.add(entry)
}

func (r *replica[T]) remove(c change[T], last func(T, int64) T) {
	old, had := r.tree.Delete(item[T]{path: c.path})
	if !had {
		return
	}
	r.history.add(record[T]{
		revision: c.revision, kind: Deleted, path: c.path,
		before: old.object, after: last(old.object, c.revision),
	})
}

// announce wakes all who wait for the copy to move.
func (r *replica[T]) announce() {
	close(r.moved)
	r.moved = make(chan struct{})
}

// get returns the shared object at path.
func (r *replica[T]) get(path string) (T, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	i, ok := r.tree.Get(item[T]{path: path})
	return i.object, ok
}

// below visits the shared objects whose path begins with prefix and isn't before
// from, in order, until visit returns false. The caller holds the lock.
func (r *replica[T]) below(prefix, from string, visit func(item[T]) bool) {
	r.tree.AscendGreaterOrEqual(item[T]{path: max(prefix, from)}, func(i item[T]) bool {
		return strings.HasPrefix(i.path, prefix) && visit(i)
	})
}

func (r *replica[T]) isSynced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

func (r *replica[T]) ready() error {
	if !r.isSynced() {
		return fault.New(fault.Transient, ReasonNotSynced, "the copy of the store isn't complete yet")
	}
	return nil
}

// wait blocks until the copy shows revision.
func (r *replica[T]) wait(ctx context.Context, revision int64) error {
	for {
		r.mu.RLock()
		reached, moved := r.revision >= revision, r.moved
		r.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
