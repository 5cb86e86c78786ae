package resource

import (
	"maps"
	"slices"
	"strings"
)

// older lays an earlier state over the present one: the objects, by path, that
// were different or absent then.
type older[T Object] struct {
	before map[string]T
	paths  []string // sorted
}

func (o *older[T]) sort() { o.paths = slices.Sorted(maps.Keys(o.before)) }

// merged visits the objects after path after, in order, in the state that o makes
// of the present one. The caller holds the lock.
func (r *replica[T]) merged(prefix, after string, o *older[T], visit func(item[T]) bool) {
	pending := o.from(prefix, after)
	going := true
	r.below(prefix, after, func(i item[T]) bool {
		for going && len(pending) > 0 && pending[0] < i.path {
			going = o.visit(pending[0], visit) // was there then, is gone now
			pending = pending[1:]
		}
		if !going || i.path == after {
			return going
		}
		if len(pending) > 0 && pending[0] == i.path {
			pending = pending[1:]
			going = o.visit(i.path, visit)
			return going
		}
		going = visit(i)
		return going
	})
	for going && len(pending) > 0 {
		going = o.visit(pending[0], visit)
		pending = pending[1:]
	}
}

// visit shows what was at path, if anything was.
func (o *older[T]) visit(path string, visit func(item[T]) bool) bool {
	var none T
	object := o.before[path]
	if Object(object) == Object(none) {
		return true
	}
	return visit(item[T]{path: path, object: object})
}

// from returns the paths below prefix that come after path after.
func (o *older[T]) from(prefix, after string) []string {
	start, _ := slices.BinarySearchFunc(o.paths, max(prefix, after), strings.Compare)
	paths := o.paths[start:]
	if len(paths) > 0 && paths[0] == after {
		paths = paths[1:]
	}
	end := slices.IndexFunc(paths, func(p string) bool { return !strings.HasPrefix(p, prefix) })
	if end >= 0 {
		paths = paths[:end]
	}
	return paths
}
