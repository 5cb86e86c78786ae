package resource

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"k8s.io/apimachinery/pkg/util/rand"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
)

// Create answers a request of the kind's Create method, for methods of a service
// that make such objects for their callers.
func (m *Methods[T]) Create(ctx context.Context, req proto.Message) (proto.Message, error) {
	return m.create(ctx, req)
}

func (m *Methods[T]) create(ctx context.Context, req proto.Message) (proto.Message, error) {
	key, err := m.target(req)
	if err != nil {
		return nil, err
	}
	obj, err := m.objectIn(req)
	if err != nil {
		return nil, err
	}
	r := req.ProtoReflect()
	answer, err := answerTo("create", textOf(r, fieldRequestID), req)
	if err != nil {
		return nil, err
	}
	if !flagOf(r, fieldValidateOnly) && answer != nil {
		if repeated, found, err := m.collection.repeat(ctx, answer); found || err != nil {
			return repeated, err
		}
	}
	return m.createObject(ctx, key, obj, writing{answer: answer, validateOnly: flagOf(r, fieldValidateOnly)})
}

// writing is how a write is to be done.
type writing struct {
	answer       *answer
	validateOnly bool
}

func (m *Methods[T]) createObject(ctx context.Context, key Key, obj T, how writing) (proto.Message, error) {
	md := meta(m.kind, obj)
	md.Namespace, md.Name = key.Namespace, key.Name
	generated := md.Name == "" && md.GenerateName != ""
	if generated {
		md.Name = md.GenerateName + rand.String(generatedChars) // rules on names judge one like it
	}
	if m.kind.Status != nil {
		obj.ProtoReflect().Clear(m.kind.Status)
	}
	obj, err := m.judge.creation(ctx, m.collection.newborn(obj))
	if err != nil {
		return nil, err
	}
	if how.validateOnly {
		if _, err := m.collection.shared(KeyOf(obj)); !fault.Is(err, fault.NotFound) {
			return nil, orElse(err, m.collection.exists(KeyOf(obj)))
		}
		return obj, nil
	}
	if generated {
		meta(m.kind, obj).Name = ""
	}
	return m.collection.create(ctx, obj, how.answer)
}

func (m *Methods[T]) update(ctx context.Context, req proto.Message) (proto.Message, error) {
	key, err := m.named(req)
	if err != nil {
		return nil, err
	}
	obj, err := m.objectIn(req)
	if err != nil {
		return nil, err
	}
	r := req.ProtoReflect()
	answer, err := answerTo("update", textOf(r, fieldRequestID), req)
	if err != nil {
		return nil, err
	}
	how := writing{answer: answer, validateOnly: flagOf(r, fieldValidateOnly)}
	if !how.validateOnly && answer != nil {
		if repeated, found, err := m.collection.repeat(ctx, answer); found || err != nil {
			return repeated, err
		}
	}
	mask, err := parseMask(m.kind, maskOf(req))
	if err != nil {
		return nil, err
	}
	updated, err := m.updateObject(ctx, key, obj, mask, how)
	if fault.Is(err, fault.NotFound) && flagOf(r, fieldAllowMissing) {
		return m.createObject(ctx, key, obj, how)
	}
	return updated, err
}

// updateObject takes what mask names of obj. It is judged inside the
// compare-and-swap, against the very state that it replaces.
func (m *Methods[T]) updateObject(ctx context.Context, key Key, obj T, mask mask, how writing) (proto.Message, error) {
	given := obj.GetMetadata()
	pre := Preconditions{UID: given.GetUid(), ResourceVersion: given.GetResourceVersion()}
	change := func(current T) error {
		if err := m.collection.check(current, pre); err != nil {
			return err
		}
		wanted := Clone(current)
		mask.apply(wanted, obj)
		wanted, err := m.judge.change(ctx, current, wanted)
		if err != nil {
			return err
		}
		return m.collection.replace(current, wanted)
	}
	if how.validateOnly {
		return m.collection.try(key, change)
	}
	return m.collection.mutate(ctx, mutation[T]{key: key, change: change, answer: how.answer})
}

// try returns what change would make of an object, and writes nothing.
func (c *Collection[T]) try(key Key, change func(T) error) (T, error) {
	current, err := c.shared(key)
	if err != nil {
		return current, err
	}
	next := Clone(current)
	if err := change(next); err != nil {
		var none T
		return none, err
	}
	c.keepIdentity(current, next)
	return next, nil
}

func (m *Methods[T]) delete(ctx context.Context, req proto.Message) (proto.Message, error) {
	asked, ok := req.(*metav1.DeleteRequest)
	if !ok {
		return nil, unexpected(req)
	}
	key, err := m.named(req)
	if err != nil {
		return nil, err
	}
	answer, err := answerTo("delete", asked.GetRequestId(), req)
	if err != nil {
		return nil, err
	}
	if answer != nil && !asked.GetValidateOnly() {
		if repeated, found, err := m.collection.repeat(ctx, answer); found || err != nil {
			return repeated, err
		}
	}
	deleted, err := m.deleteObject(ctx, key, asked, answer)
	if fault.Is(err, fault.NotFound) && asked.GetAllowMissing() {
		missing := New[T](m.kind)
		setMeta(m.kind, missing, &metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name})
		return missing, nil
	}
	return deleted, err
}

func (m *Methods[T]) deleteObject(ctx context.Context, key Key, asked *metav1.DeleteRequest, answer *answer) (proto.Message, error) {
	pre := Preconditions{UID: asked.GetUid(), ResourceVersion: asked.GetEtag()}
	admit := func(current T) error {
		if err := m.collection.check(current, pre); err != nil {
			return err
		}
		return m.judge.deletion(ctx, current)
	}
	if asked.GetValidateOnly() {
		return m.collection.try(key, admit)
	}
	return m.collection.delete(ctx, key, answer, admit)
}

func (m *Methods[T]) claim(ctx context.Context, req proto.Message) (proto.Message, error) {
	asked, ok := req.(*metav1.ClaimRequest)
	if !ok {
		return nil, unexpected(req)
	}
	key, err := m.named(req)
	if err != nil {
		return nil, err
	}
	holder := asked.GetHolder()
	obj, err := m.collection.AddHolder(ctx, key, holder, func(current T) error {
		if m.holding.Admit == nil {
			return nil
		}
		return m.holding.Admit(ctx, current, holder)
	})
	if err != nil {
		return nil, err
	}
	return m.holding.Answer(ctx, obj, holder)
}

func (m *Methods[T]) release(ctx context.Context, req proto.Message) (proto.Message, error) {
	asked, ok := req.(*metav1.ReleaseRequest)
	if !ok {
		return nil, unexpected(req)
	}
	key, err := m.named(req)
	if err != nil {
		return nil, err
	}
	if _, err := m.collection.RemoveHolder(ctx, key, asked.GetHolderUid()); err != nil {
		return nil, err
	}
	return &metav1.ReleaseResponse{}, nil
}

// objectIn returns the object in a request, as the caller's own copy, and refuses
// one that says it is of another kind.
func (m *Methods[T]) objectIn(req proto.Message) (T, error) {
	var none T
	in := m.kind.ObjectIn(req.ProtoReflect())
	if in == nil {
		return none, fault.Refuse("spec", "FieldValueRequired", "Required value: the request holds no %s", m.kind.Name)
	}
	obj := Clone(in.Interface().(T))
	if v := obj.GetApiVersion(); v != "" && v != m.kind.APIVersion() {
		return none, fault.Refuse("apiVersion", "FieldValueInvalid", "Invalid value: %q: must be %s", v, m.kind.APIVersion())
	}
	if v := obj.GetKind(); v != "" && v != m.kind.Name {
		return none, fault.Refuse("kind", "FieldValueInvalid", "Invalid value: %q: must be %s", v, m.kind.Name)
	}
	return obj, nil
}

func maskOf(req proto.Message) *fieldmaskpb.FieldMask {
	m := req.ProtoReflect()
	f := m.Descriptor().Fields().ByName(fieldUpdateMask)
	if f == nil || !m.Has(f) {
		return nil
	}
	return m.Get(f).Message().Interface().(*fieldmaskpb.FieldMask)
}

func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
