package resource

import (
	"context"

	"orlop.dev/kit/fault"
)

// Delete asks for an object to go. It goes at once if it has no finalizers and no
// active holders; otherwise it stays, Terminating, until the last is removed.
// Returns the object as it is then, with its deletionTimestamp; see Gone.
// Idempotent while the object is there, NotFound after.
func (c *Collection[T]) Delete(ctx context.Context, key Key, pre Preconditions) (T, error) {
	return c.delete(ctx, key, nil, func(current T) error { return c.check(current, pre) })
}

func (c *Collection[T]) delete(ctx context.Context, key Key, answer *answer, admit func(T) error) (T, error) {
	return c.mutate(ctx, mutation[T]{key: key, answer: answer, change: func(current T) error {
		if err := admit(current); err != nil {
			return err
		}
		if !Terminating(current) {
			meta(c.kind, current).DeletionTimestamp = timestamp(c.now())
		}
		return nil
	}})
}

// RemoveFinalizer takes a finalizer away. A terminating object goes with the last
// of them, unless it is held. Idempotent; a missing object is no error and
// returns the zero T.
func (c *Collection[T]) RemoveFinalizer(ctx context.Context, key Key, finalizer string) (T, error) {
	return ignoreMissing(c.mutate(ctx, mutation[T]{key: key, change: func(current T) error {
		m := meta(c.kind, current)
		m.Finalizers = without(m.GetFinalizers(), []string{finalizer})
		return nil
	}}))
}

// ignoreMissing makes NotFound success.
func ignoreMissing[T Object](obj T, err error) (T, error) {
	if fault.Is(err, fault.NotFound) {
		var none T
		return none, nil
	}
	return obj, err
}
