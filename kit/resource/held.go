package resource

import metav1 "orlop.dev/gen/orlop/meta/v1"

// held finds objects by the UIDs of their holders.
type held map[string]map[Key]bool

// change follows an object from one list of holders to the next; nil is none.
func (h held) change(key Key, before, after []*metav1.Holder) {
	for _, holder := range before {
		delete(h[holder.GetUid()], key)
		if len(h[holder.GetUid()]) == 0 {
			delete(h, holder.GetUid())
		}
	}
	for _, holder := range after {
		if h[holder.GetUid()] == nil {
			h[holder.GetUid()] = map[Key]bool{}
		}
		h[holder.GetUid()][key] = true
	}
}

// HeldBy returns copies of the objects that a holder has, by its UID, in the byte
// order of namespace/name. It takes no longer for more objects.
func (m *Mirror[T]) HeldBy(uid string) []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []T
	for _, key := range sortedKeys(m.held[uid]) {
		all = append(all, Clone(m.objects[key]))
	}
	return all
}

// put keeps an object's newest state.
func (m *Mirror[T]) put(key Key, obj T) {
	m.drop(key)
	m.held.change(key, nil, obj.GetMetadata().GetHolders())
	m.objects[key] = obj
}

// drop forgets an object, and reports whether it was known.
func (m *Mirror[T]) drop(key Key) bool {
	old, had := m.objects[key]
	if had {
		m.held.change(key, old.GetMetadata().GetHolders(), nil)
		delete(m.objects, key)
	}
	return had
}
