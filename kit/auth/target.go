package auth

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orlop.dev/kit/fault"
)

// target is the object that a request names.
type target struct{ namespace, name string }

// targetOf reads namespace and name from a request: its own fields, and the
// metadata of the object that it carries. Where both speak they must agree,
// else the right would be asked for one object and the work done on another.
func targetOf(req proto.Message, kind protoreflect.MessageDescriptor) (target, error) {
	m := req.ProtoReflect()
	t := target{namespace: text(m, m.Descriptor().Fields().ByName("namespace")), name: text(m, nameField(m.Descriptor()))}
	meta := carried(m, kind)
	if meta == nil {
		return t, nil
	}
	fields := meta.Descriptor().Fields()
	var err error
	if t.namespace, err = agree("namespace", t.namespace, text(meta, fields.ByName("namespace"))); err != nil {
		return target{}, err
	}
	if t.name, err = agree("name", t.name, text(meta, fields.ByName("name"))); err != nil {
		return target{}, err
	}
	return t, nil
}

func agree(field, request, metadata string) (string, error) {
	switch {
	case metadata == "" || metadata == request:
		return request, nil
	case request == "":
		return metadata, nil
	}
	return "", fault.New(fault.Invalid, "TargetMismatch",
		"the %s of the request (%s) is not that of the object (%s)", field, request, metadata).
		WithField("metadata."+field, "equal", "must be equal to the request's "+field+" "+request)
}

// carried returns the metadata of the object of the kind inside the request,
// found by its type. Nil where there is none.
func carried(m protoreflect.Message, kind protoreflect.MessageDescriptor) protoreflect.Message {
	object := objectField(m.Descriptor(), kind)
	if object == nil || !m.Has(object) {
		return nil
	}
	meta := object.Message().Fields().ByName("metadata")
	if meta == nil || meta.Message() == nil {
		return nil
	}
	return m.Get(object).Message().Get(meta).Message()
}

func objectField(m, kind protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if kind == nil {
		return nil
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() != nil && !f.IsList() && f.Message().FullName() == kind.FullName() {
			return f
		}
	}
	return nil
}

// nameField is "name", or the only text field whose name ends so: a method on
// another kind's resource says whose name it means (virtual_machine_name).
func nameField(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if f := m.Fields().ByName("name"); f != nil {
		return f
	}
	var found protoreflect.FieldDescriptor
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Kind() != protoreflect.StringKind || !strings.HasSuffix(string(f.Name()), "_name") {
			continue
		}
		if found != nil {
			return nil
		}
		found = f
	}
	return found
}

func text(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return ""
	}
	return m.Get(f).String()
}

// flag reads a bool field; a request without it answers false.
func flag(req proto.Message, name protoreflect.Name) bool {
	m := req.ProtoReflect()
	f := m.Descriptor().Fields().ByName(name)
	return f != nil && f.Kind() == protoreflect.BoolKind && m.Get(f).Bool()
}
