package resource

import "context"

// Judge returns obj as a new object that may be stored, with its defaults and
// without a status, or says why callers may not create it: for methods of a
// service that create several at once, by a Batch.
func (m *Methods[T]) Judge(ctx context.Context, obj T) (T, error) {
	obj = m.collection.newborn(obj)
	if m.kind.Status != nil {
		obj.ProtoReflect().Clear(m.kind.Status)
	}
	return m.judge.creation(ctx, obj)
}
