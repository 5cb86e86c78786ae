package manifest

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// DropUnknown returns a copy of manifest without the fields that m's descriptor
// doesn't know. It is for a door that reads what another program stored under a
// newer schema; nobody else may ignore what a user wrote. Unknown words and wrong
// types stay, for Decode to refuse.
func DropUnknown(manifest map[string]any, m proto.Message) map[string]any {
	known, _ := dropUnknown(manifest, m.ProtoReflect().Descriptor()).(map[string]any)
	return known
}

func dropUnknown(v any, d protoreflect.MessageDescriptor) any {
	object, ok := v.(map[string]any)
	if !ok || d.FullName().Parent() == "google.protobuf" {
		return v
	}
	known := make(map[string]any, len(object))
	for key, value := range object {
		if f := fieldOf(d, key); f != nil {
			known[key] = dropInField(value, f)
		}
	}
	return known
}

func dropInField(v any, f protoreflect.FieldDescriptor) any {
	element := f.Message()
	if f.IsMap() {
		element = f.MapValue().Message()
	}
	if element == nil {
		return v
	}
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = dropUnknown(v[i], element)
		}
		return list
	case map[string]any:
		if !f.IsMap() {
			return dropUnknown(v, element)
		}
		object := make(map[string]any, len(v))
		for key := range v {
			object[key] = dropUnknown(v[key], element)
		}
		return object
	}
	return v
}
