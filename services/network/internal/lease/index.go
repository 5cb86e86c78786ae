package lease

import (
	"sync"

	"orlop.dev/kit/resource"
)

// index knows the lease of each owner by name. It may lag: what it says is
// looked up again, and what it doesn't know yet costs one more lease, which is
// given back as soon as the owner says which one it has.
type index struct {
	mu    sync.Mutex
	names map[resource.Key]string
}

func (i *index) get(owner resource.Key) (string, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	name, known := i.names[owner]
	return name, known
}

func (i *index) put(owner resource.Key, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.names[owner] = name
}

func (i *index) remove(owner resource.Key, name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.names[owner] == name {
		delete(i.names, owner)
	}
}

// Observe tells the book of a lease that is there, as one of an earlier process.
func (b *Book[A, L]) Observe(l L) {
	if owner, owned := b.OwnerKey(l); owned {
		b.index.put(owner, l.GetMetadata().GetName())
	}
}

// OwnerKey names the owner of a lease, if any.
func (b *Book[A, L]) OwnerKey(l L) (resource.Key, bool) {
	ref := b.form.Ref(l)
	return resource.Key{Namespace: ref.Namespace, Name: ref.Name}, ref.Name != ""
}
