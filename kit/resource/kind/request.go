package kind

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orlop.dev/kit/fault"
)

// Target is the object that a request speaks of.
type Target struct {
	// Namespace is empty for a kind of the cluster, and for a List or Watch of
	// all namespaces.
	Namespace string
	// Name is empty for List and Watch, and for a Create that lets the server
	// choose.
	Name string
}

// Target returns the object that a request of the kind's service speaks of, by
// the request's own fields and by the metadata of the object in it. Where the
// two differ the request is refused: whoever judges one must not let the other
// through. A namespace on a kind of the cluster is refused too.
func (k *Kind) Target(req proto.Message) (Target, error) {
	m := req.ProtoReflect()
	t := Target{Namespace: text(m, "namespace"), Name: text(m, "name")}
	if obj := k.ObjectIn(m); obj != nil {
		md := obj.Get(k.Metadata).Message()
		var err error
		if t.Namespace, err = same("namespace", t.Namespace, text(md, "namespace")); err != nil {
			return Target{}, err
		}
		if t.Name, err = same("name", t.Name, text(md, "name")); err != nil {
			return Target{}, err
		}
	}
	if !k.Namespaced && t.Namespace != "" {
		return Target{}, fault.Refuse("metadata.namespace", "FieldValueForbidden", "%s is not namespaced", k.Name)
	}
	return t, nil
}

// ObjectIn returns the object of the kind that a request or response carries in
// a field of its own, found by type; nil where it has none.
func (k *Kind) ObjectIn(m protoreflect.Message) protoreflect.Message {
	f := FieldOfType(m.Descriptor(), k.Descriptor.FullName())
	if f == nil || f.IsList() || !m.Has(f) {
		return nil
	}
	return m.Get(f).Message()
}

// FieldOfType returns the first field of d whose message type has that name.
func FieldOfType(d protoreflect.MessageDescriptor, name protoreflect.FullName) protoreflect.FieldDescriptor {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		if f.Message() != nil && f.Message().FullName() == name && !f.IsMap() {
			return f
		}
	}
	return nil
}

func text(m protoreflect.Message, field protoreflect.Name) string {
	f := m.Descriptor().Fields().ByName(field)
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return ""
	}
	return m.Get(f).String()
}

func same(field, outer, inner string) (string, error) {
	switch {
	case inner == "" || inner == outer:
		return outer, nil
	case outer == "":
		return inner, nil
	}
	return "", fault.Refuse("metadata."+field, "FieldValueInvalid", "must be %q, as in the request, or empty; it is %q", outer, inner)
}
