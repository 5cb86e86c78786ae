package resource

import (
	"context"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/fault"
)

// BatchSize is how many objects one Batch can write: etcd's default limit of
// operations in a transaction.
const BatchSize = 128

// Batch is writes of several objects, of several collections too, that are done
// all or none. Its collections share a client. It is used once, by one caller.
type Batch struct {
	client *clientv3.Client
	writes []staged
}

// staged is one write of a batch.
type staged struct {
	collection string
	key        Key
	condition  clientv3.Cmp
	op         clientv3.Op
	read       clientv3.Op
	// holds reports whether the condition does, for the revision that the object is
	// of: 0 if there is none.
	holds func(revision int64) bool
	lost  error
	// wrote gives the object its version, seen waits until the copy shows one.
	wrote func(revision int64)
	seen  func(ctx context.Context, revision int64) error
}

// LostError says which write of a batch came too late.
type LostError struct {
	// Kind and Key are of its object.
	Kind string
	Key  Key
	// Err is of class Exists for one that was to be made, and Stale for one that was
	// to be changed.
	Err error
}

func (e *LostError) Error() string { return fmt.Sprintf("%s %s: %v", e.Kind, e.Key, e.Err) }

func (e *LostError) Unwrap() error { return e.Err }

// Newborn returns obj with the metadata of a new object, its UID among it, for
// StageCreate. It must have a name.
func (c *Collection[T]) Newborn(obj T) T { return c.newborn(obj) }

// StageCreate has a batch store what Newborn returned, status included. It has its
// version once the batch is committed.
func (c *Collection[T]) StageCreate(b *Batch, newborn T) error {
	key := KeyOf(newborn)
	path := c.store.objects + key.path()
	return c.stage(b, newborn, staged{
		condition: absent(path), read: clientv3.OpGet(path, clientv3.WithKeysOnly()),
		holds: func(revision int64) bool { return revision == 0 }, lost: c.exists(key),
	})
}

// StageChange has a batch make next of current, which is as Get returned it, if
// nobody changed it since. As Mutate does, it keeps what identifies an object.
func (c *Collection[T]) StageChange(b *Batch, current, next T) error {
	key := KeyOf(current)
	path := c.store.objects + key.path()
	next = Clone(next)
	c.keepIdentity(current, next)
	was, err := strconv.ParseInt(current.GetMetadata().GetResourceVersion(), 10, 64)
	if err != nil {
		return fault.Wrap(err, fault.Internal, fault.ReasonInternal, "%s %q has no version", c.kind.Name, key)
	}
	return c.stage(b, next, staged{
		condition: clientv3.Compare(clientv3.ModRevision(path), "=", was), read: clientv3.OpGet(path, clientv3.WithKeysOnly()),
		holds: func(revision int64) bool { return revision == was },
		lost:  fault.New(fault.Stale, ReasonConflict, "%s %q was changed by others: try again", c.kind.Name, key),
	})
}

func (c *Collection[T]) stage(b *Batch, obj T, s staged) error {
	if err := c.replica.ready(); err != nil {
		return err
	}
	value, err := c.encode(obj)
	if err != nil {
		return err
	}
	s.collection, s.key = c.kind.Name, KeyOf(obj)
	s.op = clientv3.OpPut(c.store.objects+s.key.path(), string(value))
	s.wrote = func(revision int64) { meta(c.kind, obj).ResourceVersion = version(revision) }
	s.seen = c.replica.wait
	for _, other := range b.writes {
		if other.collection == s.collection && other.key == s.key {
			return fault.New(fault.Invalid, fault.ReasonInvalid, "%s %q is written twice", c.kind.Name, s.key)
		}
	}
	b.client, b.writes = c.store.client, append(b.writes, s)
	return nil
}

// Commit does the writes, and returns when they are durable and the copies show
// them. A *LostError says that none was done, as others were faster.
func (b *Batch) Commit(ctx context.Context) error {
	switch {
	case len(b.writes) == 0:
		return nil
	case len(b.writes) > BatchSize:
		return fault.New(fault.Invalid, fault.ReasonInvalid, "%d objects can't be written at once: %d are the most", len(b.writes), BatchSize)
	}
	var conditions []clientv3.Cmp
	var ops, reads []clientv3.Op
	for _, w := range b.writes {
		conditions, ops, reads = append(conditions, w.condition), append(ops, w.op), append(reads, w.read)
	}
	resp, err := b.client.Txn(ctx).If(conditions...).Then(ops...).Else(reads...).Commit()
	if err != nil {
		return Unavailable(err)
	}
	if !resp.Succeeded {
		return b.lost(ctx, resp)
	}
	for _, w := range b.writes {
		w.wrote(resp.Header.Revision)
		if err := w.seen(ctx, resp.Header.Revision); err != nil {
			return fault.Wrap(err, fault.Transient, fault.ReasonDeadlineExceeded, "written, but not seen yet")
		}
	}
	return nil
}

// lost finds the first write whose condition doesn't hold, and waits until the
// copy shows why: another attempt would lose again.
func (b *Batch) lost(ctx context.Context, resp *clientv3.TxnResponse) error {
	for i, w := range b.writes {
		revision := int64(0)
		if found := resp.Responses[i].GetResponseRange().GetKvs(); len(found) > 0 {
			revision = found[0].GetModRevision()
		}
		if w.holds(revision) {
			continue
		}
		if err := w.seen(ctx, revision); err != nil {
			return err
		}
		return &LostError{Kind: w.collection, Key: w.key, Err: w.lost}
	}
	return fault.New(fault.Stale, ReasonConflict, "objects are being changed by others: try again")
}
