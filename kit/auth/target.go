package auth

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// target returns the object that a request of the rule's method names.
func (r rule) target(req proto.Message) (kind.Target, error) {
	m := req.ProtoReflect()
	t := kind.Target{Namespace: text(m, m.Descriptor().Fields().ByName("namespace"))}
	if r.kind != nil {
		var err error
		if t, err = r.kind.Target(req); err != nil {
			return kind.Target{}, err
		}
	}
	if t.Name == "" {
		t.Name = text(m, nameField(m.Descriptor()))
	}
	return t, nil
}

// complete refuses a request that doesn't say which object it means: the right
// would be asked for the whole cluster instead.
func (r rule) complete(t kind.Target) error {
	if r.namespaced && !r.wide && t.Namespace == "" {
		return fault.Refuse("metadata.namespace", "FieldValueRequired", "Required value")
	}
	if r.named && t.Name == "" {
		return fault.Refuse("metadata.name", "FieldValueRequired", "Required value")
	}
	return nil
}

// wants lists the rights that a request needs: one, and "create" besides where
// an update may have to create.
func (r rule) wants(req proto.Message, t kind.Target) []Attributes {
	a := r.attributes
	a.Namespace = t.Namespace
	if r.named {
		a.Name = t.Name
	}
	if a.Verb != string(kind.Update) || !flag(req, "allow_missing") {
		return []Attributes{a}
	}
	create := a
	create.Verb, create.Name = string(kind.Create), ""
	return []Attributes{a, create}
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
	return f != nil && f.Kind() == protoreflect.BoolKind && !f.IsList() && m.Get(f).Bool()
}
