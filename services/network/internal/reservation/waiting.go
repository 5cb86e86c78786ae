package reservation

import (
	"maps"
	"slices"
	"sync"

	"orlop.dev/kit/resource"
)

// waiting is a set of names that is safe for concurrent use.
type waiting struct {
	mu   sync.Mutex
	keys map[resource.Key]struct{}
}

func (w *waiting) note(key resource.Key, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !waits {
		delete(w.keys, key)
		return
	}
	if w.keys == nil {
		w.keys = map[resource.Key]struct{}{}
	}
	w.keys[key] = struct{}{}
}

func (w *waiting) all() []resource.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.keys))
}
