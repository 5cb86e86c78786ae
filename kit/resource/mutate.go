package resource

import (
	"context"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orlop.dev/kit/fault"
)

// casAttempts bounds the attempts of one change. Each that fails means that
// another writer of the same object succeeded.
const casAttempts = 64

// mutation is a change to one object, tried until no other writer comes between.
type mutation[T Object] struct {
	key Key
	// change makes the next state of an object, in place.
	change func(T) error
	// fresh begins with etcd's state, not the copy's, so that a change that finds
	// nothing to do is right even if another replica has just written.
	fresh bool
	// answer, if any, is kept for a repeated request.
	answer *answer
}

// Mutate changes an object by change, which may run several times, each time on
// the newest state. What identifies the object, its holders and its deletion stay
// as they were whatever change does to them; generation grows if spec changed.
// Nothing is written where nothing changed. An error of change is returned as it is.
func (c *Collection[T]) Mutate(ctx context.Context, key Key, change func(T) error) (T, error) {
	return c.mutate(ctx, mutation[T]{key: key, change: func(obj T) error {
		before := proto.CloneOf(obj.GetMetadata())
		if err := change(obj); err != nil {
			return err
		}
		m := meta(c.kind, obj)
		m.Holders, m.DeletionTimestamp = before.GetHolders(), before.GetDeletionTimestamp()
		m.DeletionGracePeriodSeconds = before.GetDeletionGracePeriodSeconds()
		return nil
	}})
}

func (c *Collection[T]) mutate(ctx context.Context, m mutation[T]) (T, error) {
	var none T
	if err := c.replica.ready(); err != nil {
		return none, err
	}
	current, found := c.replica.get(m.key.path())
	for range casAttempts {
		if !found || m.fresh {
			var err error
			if current, err = c.fetch(ctx, m.key); err != nil {
				return none, err
			}
		}
		next, done, err := c.attempt(ctx, m, current)
		if done || err != nil {
			return next, err
		}
		found = false // somebody came between: look at what they wrote
	}
	return none, fault.New(fault.Stale, ReasonConflict, "%s %q is being changed by others: try again", c.kind.Name, m.key)
}

// Fetch reads an object from etcd itself, or a fault of class NotFound: what
// another replica has just written is seen.
func (c *Collection[T]) Fetch(ctx context.Context, key Key) (T, error) { return c.fetch(ctx, key) }

func (c *Collection[T]) fetch(ctx context.Context, key Key) (T, error) {
	var none T
	resp, err := c.store.client.Get(ctx, c.store.objects+key.path())
	if err != nil {
		return none, Unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return none, c.notFound(key)
	}
	return c.decode(resp.Kvs[0])
}

// attempt tries the change once on current, which it does not change. Not done
// means that another writer was faster.
func (c *Collection[T]) attempt(ctx context.Context, m mutation[T], current T) (next T, done bool, err error) {
	var none T
	next = Clone(current)
	if err := m.change(next); err != nil {
		return none, true, err
	}
	c.keepIdentity(current, next)
	same := proto.Equal(current, next)
	if same && m.answer == nil {
		return next, true, nil
	}
	revision, _ := strconv.ParseInt(current.GetMetadata().GetResourceVersion(), 10, 64)
	ops, err := c.operations(ctx, m, next, same, revision)
	if err != nil {
		return none, true, err
	}
	resp, err := c.commit(ctx, m.conditions(&c.store, revision), ops)
	if err != nil {
		return none, true, err
	}
	if !resp.Succeeded {
		return c.interrupted(ctx, m)
	}
	if same {
		return next, true, nil
	}
	next, err = c.seen(ctx, next, resp.Header.Revision)
	return next, true, err
}

// commit writes ops if all conditions hold.
func (c *Collection[T]) commit(ctx context.Context, conditions []clientv3.Cmp, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := c.store.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		c.leases.forget(err)
		return nil, Unavailable(err)
	}
	return resp, nil
}

// interrupted tells whether it was the same request, already answered, that came
// between.
func (c *Collection[T]) interrupted(ctx context.Context, m mutation[T]) (T, bool, error) {
	var none T
	if m.answer == nil {
		return none, false, nil
	}
	return c.repeat(ctx, m.answer)
}

func (m *mutation[T]) conditions(s *store, revision int64) []clientv3.Cmp {
	key := s.objects + m.key.path()
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", revision)}
	if m.answer != nil {
		conditions = append(conditions, absent(s.requests+m.answer.id))
	}
	return conditions
}

// operations are the writes that store next: nothing of it if it is the same, its
// removal if nothing keeps it any more.
func (c *Collection[T]) operations(ctx context.Context, m mutation[T], next T, same bool, revision int64) ([]clientv3.Op, error) {
	key := c.store.objects + m.key.path()
	value, err := c.encode(next)
	if err != nil {
		return nil, err
	}
	var ops []clientv3.Op
	switch {
	case same:
	case Gone(next):
		ops = append(ops, clientv3.OpDelete(key))
	default:
		ops = append(ops, clientv3.OpPut(key, string(value)))
	}
	if m.answer == nil {
		return ops, nil
	}
	if !same {
		revision = 0 // the answer's version is that of this very write
	}
	op, err := c.record(ctx, m.answer, value, revision)
	return append(ops, op), err
}

// keepIdentity puts back what no change may touch, and counts changes of spec.
func (c *Collection[T]) keepIdentity(current, next T) {
	was, m := current.GetMetadata(), meta(c.kind, next)
	c.kind.SetType(next.ProtoReflect())
	m.Name, m.Namespace, m.GenerateName = was.GetName(), was.GetNamespace(), was.GetGenerateName()
	m.Uid, m.CreationTimestamp = was.GetUid(), was.GetCreationTimestamp()
	m.ResourceVersion, m.ManagedFields, m.SelfLink = was.GetResourceVersion(), nil, ""
	m.Generation = was.GetGeneration()
	if !equalField(c.kind.Spec, current, next) {
		m.Generation++
	}
}

func equalField(f protoreflect.FieldDescriptor, a, b Object) bool {
	if f == nil {
		return true
	}
	x, y := a.ProtoReflect(), b.ProtoReflect()
	return x.Has(f) == y.Has(f) && (!x.Has(f) || x.Get(f).Equal(y.Get(f)))
}
