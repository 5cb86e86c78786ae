package resource

// record is one change as the history keeps it. Objects in it are shared and are
// never changed.
type record[T Object] struct {
	revision int64
	kind     EventType
	path     string
	// before is the zero T for Added; after is the last state for Deleted.
	before, after T
}

// history keeps the last changes in order, for watches to read at their own pace
// and for lists to look back. Positions count all changes ever; a watch whose
// position has left the history has been too slow.
type history[T Object] struct {
	records []record[T] // a ring: position p is at p modulo its length
	first   uint64      // position of the oldest kept record
	next    uint64      // position of the next record
	floor   int64       // every change after this revision is kept
}

func newHistory[T Object](size int) history[T] {
	return history[T]{records: make([]record[T], size)}
}

func (h *history[T]) at(position uint64) *record[T] {
	return &h.records[position%uint64(len(h.records))]
}

func (h *history[T]) add(r record[T]) {
	if h.next-h.first == uint64(len(h.records)) {
		h.floor = h.at(h.first).revision
		h.first++
	}
	*h.at(h.next) = r
	h.next++
}

// forget drops all records: nothing is known of what happened up to revision.
func (h *history[T]) forget(revision int64) {
	clear(h.records)
	h.next++ // a watch that waits at the end has missed something too
	h.first, h.floor = h.next, revision
}

// after returns the position of the first record after revision, false if it may
// have been dropped.
func (h *history[T]) after(revision int64) (uint64, bool) {
	if revision < h.floor {
		return 0, false
	}
	position := h.next
	for position > h.first && h.at(position-1).revision > revision {
		position--
	}
	return position, true
}
