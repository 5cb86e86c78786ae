package resource

import (
	"cmp"
	"maps"
	"slices"
)

// take lets obj in if it is newer than what is known. The caller holds the lock.
func (m *Mirror[T]) take(obj T) {
	key, v := KeyOf(obj), obj.GetMetadata().GetResourceVersion()
	if buried, ok := m.deleted[key]; ok && !Newer(v, buried) {
		return
	}
	old, had := m.objects[key]
	if had && !Newer(v, old.GetMetadata().GetResourceVersion()) {
		return
	}
	if !had && m.version != "" && !Newer(v, m.version) {
		return // a late response: the watch has told of its deletion
	}
	delete(m.deleted, key)
	switch {
	case Gone(obj):
		m.bury(key, obj)
	case had:
		m.put(key, obj)
		m.tell(Modified, obj)
	default:
		m.put(key, obj)
		m.tell(Added, obj)
	}
}

// bury forgets an object whose last state is last, if it was known, and remembers
// when it went.
func (m *Mirror[T]) bury(key Key, last T) {
	had := m.drop(key)
	m.deleted[key] = last.GetMetadata().GetResourceVersion()
	if had {
		m.tell(Deleted, last)
	}
}

func (m *Mirror[T]) tell(what EventType, obj T) {
	m.handler(Event[T]{Type: what, Object: obj, ResourceVersion: obj.GetMetadata().GetResourceVersion(), Store: m.store})
}

// meet is shown the store of each event. Another one than before ends everything
// that was known, without a word: a lost store says nothing about its objects.
// True means that the watch must begin anew.
func (m *Mirror[T]) meet(store string) bool {
	if store == m.store {
		return false
	}
	known := m.store != ""
	m.store = store
	if !known {
		return false
	}
	clear(m.objects)
	clear(m.held)
	clear(m.deleted)
	again := m.version != ""
	m.version, m.whole = "", false
	return again
}

// advance notes that the watch has told everything up to v.
func (m *Mirror[T]) advance(v string) {
	m.version = v
	for key, buried := range m.deleted {
		if !Newer(buried, v) {
			delete(m.deleted, key)
		}
	}
}

// retain ends a new beginning at version v: what the store did not tell and isn't
// newer is gone.
func (m *Mirror[T]) retain(told map[Key]bool, v string) {
	for _, key := range sortedKeys(m.objects) {
		obj := m.objects[key]
		if told[key] || Newer(obj.GetMetadata().GetResourceVersion(), v) {
			continue
		}
		m.drop(key)
		m.tell(Deleted, obj)
	}
}

func sortedKeys[V any](m map[Key]V) []Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b Key) int { return cmp.Compare(a.path(), b.path()) })
}
