package lease

import (
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// Draft is leases that are written with other objects, all or none. Until its
// batch is committed nobody has them; if others were faster, all begins anew. It
// is used once, by one caller.
type Draft[A Address, L resource.Object] struct {
	book  *Book[A, L]
	batch *resource.Batch
	// given are the addresses of the draft.
	given  map[A]bool
	owners []Owner
	names  []string
}

// Draft returns a draft whose leases a batch writes.
func (b *Book[A, L]) Draft(batch *resource.Batch) *Draft[A, L] {
	return &Draft[A, L]{book: b, batch: batch, given: map[A]bool{}}
}

// Pick is the Book's.
func (d *Draft[A, L]) Pick(owner Owner) (A, error) {
	picked, err := d.book.free(owner, d.given)
	if err != nil {
		return picked, err
	}
	return picked, d.create(owner, picked)
}

// Take is the Book's.
func (d *Draft[A, L]) Take(owner Owner, wanted A) error {
	if err := d.book.Check(wanted); err != nil {
		return err
	}
	if d.given[wanted] {
		return fault.New(fault.NotReady, d.book.form.Reason(AlreadyExists), "Address %s is asked for twice.", wanted)
	}
	present, err := d.book.store.Get(d.book.keyOf(wanted))
	switch {
	case fault.Is(err, fault.NotFound):
		return d.create(owner, wanted)
	case err != nil:
		return err
	}
	if err := d.book.mayTake(present, owner, wanted); err != nil {
		return err
	}
	next := resource.Clone(present)
	d.book.give(next, owner)
	d.note(owner, wanted)
	return d.book.store.StageChange(d.batch, present, next)
}

func (d *Draft[A, L]) create(owner Owner, free A) error {
	d.note(owner, free)
	return d.book.store.StageCreate(d.batch, d.book.store.Newborn(d.book.lease(owner, free)))
}

func (d *Draft[A, L]) note(owner Owner, at A) {
	d.given[at] = true
	d.owners, d.names = append(d.owners, owner), append(d.names, d.book.space.Name(at))
}

// Committed tells the book that the batch is.
func (d *Draft[A, L]) Committed() {
	for i, owner := range d.owners {
		d.book.index.put(owner.key(), d.names[i])
	}
}
