package resource

import (
	"context"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

// Preview is an update that was judged and not done.
type Preview[T Object] struct {
	// Current is the object as it is, Wanted as it would be, with its defaults.
	Current, Wanted T
	// Refusal is why the update would be refused; nil where it would be done.
	Refusal *fault.Fault
}

// Preview judges an update by the very rules of Update, and writes nothing. req
// names an object and carries its wanted state. An object that isn't there, and
// one that is of another version than the wanted state, are errors.
func (m *Methods[T]) Preview(ctx context.Context, req proto.Message) (Preview[T], error) {
	key, err := m.named(req)
	if err != nil {
		return Preview[T]{}, err
	}
	given, err := m.objectIn(req)
	if err != nil {
		return Preview[T]{}, err
	}
	current, err := m.collection.Get(key)
	if err != nil {
		return Preview[T]{}, err
	}
	pre := Preconditions{UID: given.GetMetadata().GetUid(), ResourceVersion: given.GetMetadata().GetResourceVersion()}
	if err := m.collection.check(current, pre); err != nil {
		return Preview[T]{}, err
	}
	wanted := Clone(current)
	mask{kind: m.kind}.apply(wanted, given)
	judged, err := m.judge.change(ctx, current, wanted)
	switch {
	case err == nil:
		return Preview[T]{Current: current, Wanted: judged}, nil
	case !fault.Is(err, fault.Invalid, fault.Denied):
		return Preview[T]{}, err
	}
	wanted, fillErr := m.judge.filled(wanted)
	return Preview[T]{Current: current, Wanted: wanted, Refusal: fault.From(err)}, fillErr
}

// filled returns obj with its defaults, whatever else is to be said of it.
func (j *judge[T]) filled(obj T) (T, error) {
	if j.schema == nil {
		return obj, nil
	}
	document, err := j.manifest(obj)
	if err != nil {
		return obj, err
	}
	j.schema.Default(document)
	filled := New[T](j.kind)
	if err := manifest.Decode(document, filled); err != nil {
		return obj, err
	}
	setField(j.kind.Status, filled, obj)
	return filled, nil
}
