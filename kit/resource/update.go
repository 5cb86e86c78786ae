package resource

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orlop.dev/kit/fault"
)

// Update replaces spec, labels, annotations, owners and finalizers of a stored
// object by obj's, and leaves its status. Where obj has a resourceVersion or a
// UID they must be the stored ones, else the class is Stale. Nothing is written
// where nothing changes.
func (c *Collection[T]) Update(ctx context.Context, obj T) (T, error) {
	given := obj.GetMetadata()
	pre := Preconditions{UID: given.GetUid(), ResourceVersion: given.GetResourceVersion()}
	return c.mutate(ctx, mutation[T]{key: KeyOf(obj), change: func(current T) error {
		if err := c.check(current, pre); err != nil {
			return err
		}
		return c.replace(current, obj)
	}})
}

// replace puts what users may write of wanted into current.
func (c *Collection[T]) replace(current, wanted T) error {
	m, given := meta(c.kind, current), proto.CloneOf(wanted.GetMetadata())
	finalizers := finalizersAfter(m.GetFinalizers(), given.GetFinalizers(), c.opts.Finalizers)
	if added := without(finalizers, m.GetFinalizers()); Terminating(current) && len(added) > 0 {
		return fault.Refuse("metadata.finalizers", "FieldValueForbidden",
			"no new finalizers can be added if the object is being deleted, found new finalizers %q", added)
	}
	m.Labels, m.Annotations = given.GetLabels(), given.GetAnnotations()
	m.OwnerReferences, m.Finalizers = given.GetOwnerReferences(), finalizers
	setField(c.kind.Spec, current, wanted)
	return nil
}

// finalizersAfter returns the finalizers of an object that has present when a
// caller asks for asked. The service's own are neither taken away nor put back by
// a caller. The order stays, so that asking for the same changes nothing.
func finalizersAfter(present, asked, own []string) []string {
	kept := intersection(present, union(own, asked))
	return append(kept, without(without(asked, own), present)...)
}

// UpdateStatus replaces the status of the object with that UID (empty: whichever
// has the name). Class NotFound if it is gone, another object of its name
// included. Nothing is written where nothing changed.
func (c *Collection[T]) UpdateStatus(ctx context.Context, key Key, uid string, status proto.Message) (T, error) {
	var none T
	if c.kind.Status == nil || status.ProtoReflect().Descriptor() != c.kind.Status.Message() {
		return none, fault.New(fault.Internal, fault.ReasonInternal, "%T is no status of %s", status, c.kind)
	}
	return c.mutate(ctx, mutation[T]{key: key, change: func(current T) error {
		if uid != "" && uid != current.GetMetadata().GetUid() {
			return c.notFound(key)
		}
		value := protoreflect.ValueOfMessage(proto.Clone(status).ProtoReflect())
		current.ProtoReflect().Set(c.kind.Status, value)
		return nil
	}})
}

// check fails with class Stale where current isn't the object that is meant.
func (c *Collection[T]) check(current T, pre Preconditions) error {
	m := current.GetMetadata()
	switch {
	case pre.UID != "" && pre.UID != m.GetUid():
		return fault.New(fault.Stale, ReasonConflict, "%s %q has UID %s, not %s: it is another object of that name",
			c.kind.Name, m.GetName(), m.GetUid(), pre.UID)
	case pre.ResourceVersion != "" && pre.ResourceVersion != m.GetResourceVersion():
		return fault.New(fault.Stale, ReasonConflict, "%s %q was changed since version %s: read it again, and apply your change to what it is now",
			c.kind.Name, m.GetName(), pre.ResourceVersion)
	}
	return nil
}

// setField makes field f of to equal to that of from.
func setField(f protoreflect.FieldDescriptor, to, from Object) {
	if f == nil {
		return
	}
	if !from.ProtoReflect().Has(f) {
		to.ProtoReflect().Clear(f)
		return
	}
	value := proto.Clone(from.ProtoReflect().Get(f).Message().Interface())
	to.ProtoReflect().Set(f, protoreflect.ValueOfMessage(value.ProtoReflect()))
}

// union returns a and what b has besides, each once.
func union(a, b []string) []string {
	all := slices.Clone(a)
	return append(all, without(b, a)...)
}

// without returns what a has and b has not.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// intersection returns what both have.
func intersection(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}
