package resource

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"orlop.dev/kit/resource/kind"
)

// The requests and responses of Create, Update, List and Watch are messages of
// each kind's own. Their fields have the same names in all kinds, and the object
// is found by its type; so they are read and written by reflection here, and
// nowhere else.
const (
	fieldNamespace       protoreflect.Name = "namespace"
	fieldName            protoreflect.Name = "name"
	fieldValidateOnly    protoreflect.Name = "validate_only"
	fieldAllowMissing    protoreflect.Name = "allow_missing"
	fieldRequestID       protoreflect.Name = "request_id"
	fieldUpdateMask      protoreflect.Name = "update_mask"
	fieldItems           protoreflect.Name = "items"
	fieldNextPageToken   protoreflect.Name = "next_page_token"
	fieldResourceVersion protoreflect.Name = "resource_version"
	fieldStore           protoreflect.Name = "store"
	fieldType            protoreflect.Name = "type"
	fieldObject          protoreflect.Name = "object"
)

// typeOf returns the linked-in type of a message.
func typeOf(d protoreflect.MessageDescriptor) (protoreflect.MessageType, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", d.FullName(), err)
	}
	return t, nil
}

func textOf(m protoreflect.Message, field protoreflect.Name) string {
	if f := m.Descriptor().Fields().ByName(field); f != nil {
		return m.Get(f).String()
	}
	return ""
}

func flagOf(m protoreflect.Message, field protoreflect.Name) bool {
	f := m.Descriptor().Fields().ByName(field)
	return f != nil && m.Get(f).Bool()
}

// set sets a field to a Go value, and skips one that the message doesn't have:
// requests of cluster kinds have no namespace.
func set(m protoreflect.Message, field protoreflect.Name, value any) {
	if f := m.Descriptor().Fields().ByName(field); f != nil {
		m.Set(f, protoreflect.ValueOf(value))
	}
}

// setObject sets the field of the kind's type to object.
func setObject(m protoreflect.Message, k *kind.Kind, object proto.Message) {
	f := kind.FieldOfType(m.Descriptor(), k.Descriptor.FullName())
	m.Set(f, protoreflect.ValueOfMessage(object.ProtoReflect()))
}

// writePage makes a List response.
func writePage[T Object](m protoreflect.Message, page Page[T]) {
	items := m.Mutable(m.Descriptor().Fields().ByName(fieldItems)).List()
	for _, object := range page.Items {
		items.Append(protoreflect.ValueOfMessage(object.ProtoReflect()))
	}
	set(m, fieldNextPageToken, page.NextPageToken)
	set(m, fieldResourceVersion, page.ResourceVersion)
}

// readPage reads a List response.
func readPage[T Object](m protoreflect.Message) Page[T] {
	items := m.Get(m.Descriptor().Fields().ByName(fieldItems)).List()
	page := Page[T]{
		Items:           make([]T, items.Len()),
		NextPageToken:   textOf(m, fieldNextPageToken),
		ResourceVersion: textOf(m, fieldResourceVersion),
	}
	for i := range items.Len() {
		page.Items[i] = items.Get(i).Message().Interface().(T)
	}
	return page
}

// writeEvent makes a Watch response.
func writeEvent[T Object](m protoreflect.Message, e Event[T]) {
	set(m, fieldType, e.Type.Number())
	set(m, fieldResourceVersion, e.ResourceVersion)
	set(m, fieldStore, e.Store)
	if e.Type != Bookmark {
		set(m, fieldObject, e.Object.ProtoReflect())
	}
}

// readEvent reads a Watch response.
func readEvent[T Object](m protoreflect.Message) Event[T] {
	e := Event[T]{
		Type:            EventType(m.Get(m.Descriptor().Fields().ByName(fieldType)).Enum()),
		ResourceVersion: textOf(m, fieldResourceVersion),
		Store:           textOf(m, fieldStore),
	}
	if f := m.Descriptor().Fields().ByName(fieldObject); m.Has(f) {
		e.Object = m.Get(f).Message().Interface().(T)
	}
	return e
}

// checkMessages fails where a method's messages lack a field that is needed.
func checkMessages(k *kind.Kind) error {
	type need struct {
		message protoreflect.MessageDescriptor
		fields  []protoreflect.Name
	}
	var needs []need
	if m := k.Methods.List; m != nil {
		needs = append(needs, need{m.Output(), []protoreflect.Name{fieldItems, fieldNextPageToken, fieldResourceVersion}})
	}
	if m := k.Methods.Watch; m != nil {
		needs = append(needs, need{m.Output(), []protoreflect.Name{fieldType, fieldObject, fieldResourceVersion, fieldStore}})
	}
	for _, n := range needs {
		for _, name := range n.fields {
			if n.message.Fields().ByName(name) == nil {
				return fmt.Errorf("%s has no field %s", n.message.FullName(), name)
			}
		}
	}
	for _, m := range []protoreflect.MethodDescriptor{k.Methods.Create, k.Methods.Update} {
		if m != nil && kind.FieldOfType(m.Input(), k.Descriptor.FullName()) == nil {
			return fmt.Errorf("%s has no field of type %s", m.Input().FullName(), k.Descriptor.FullName())
		}
	}
	return nil
}
