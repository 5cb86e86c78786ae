package resource

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
)

// AddHolder writes down that holder uses the object, replacing what is known of
// the same holder (by UID). admit sees the object as it is before, inside the
// compare-and-swap: of two holders that exclude each other one gets in. A
// terminating object takes no new holders (class NotReady, ReasonTerminating).
// admit must not change the object, and may run several times.
func (c *Collection[T]) AddHolder(ctx context.Context, key Key, holder *metav1.Holder, admit func(T) error) (T, error) {
	var none T
	if holder.GetUid() == "" {
		return none, fault.Refuse("holder.uid", "FieldValueRequired", "Required value")
	}
	return c.mutate(ctx, mutation[T]{key: key, fresh: true, change: func(current T) error {
		m := meta(c.kind, current)
		at := indexOfHolder(m.GetHolders(), holder.GetUid())
		if at < 0 && Terminating(current) {
			return fault.New(fault.NotReady, ReasonTerminating, "%s %q is being deleted", c.kind.Name, m.GetName())
		}
		if err := admit(current); err != nil {
			return err
		}
		if at < 0 {
			m.Holders = append(m.Holders, proto.CloneOf(holder))
		} else {
			m.Holders[at] = proto.CloneOf(holder)
		}
		return nil
	}})
}

// RemoveHolder forgets a holder. A terminating object goes with its last active
// holder, unless it has finalizers. Idempotent; a missing object is no error and
// returns the zero T.
func (c *Collection[T]) RemoveHolder(ctx context.Context, key Key, holderUID string) (T, error) {
	return ignoreMissing(c.mutate(ctx, mutation[T]{key: key, fresh: true, change: func(current T) error {
		m := meta(c.kind, current)
		if at := indexOfHolder(m.GetHolders(), holderUID); at >= 0 {
			m.Holders = slices.Delete(m.Holders, at, at+1)
		}
		return nil
	}}))
}

func indexOfHolder(holders []*metav1.Holder, uid string) int {
	return slices.IndexFunc(holders, func(h *metav1.Holder) bool { return h.GetUid() == uid })
}
