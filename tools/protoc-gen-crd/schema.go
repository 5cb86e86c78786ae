package main

import (
	"math"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

type schema = apiextensions.JSONSchemaProps

// Values of the field option's format.
const (
	formatQuantity    = "FORMAT_QUANTITY"
	formatIntOrString = "FORMAT_INT_OR_STRING"
)

// quantity is the pattern of resource.Quantity, as Kubernetes' own generated
// definitions have it.
const quantity = `^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$`

// object is the schema of a message: its fields, and the rules between them.
func (w *walker) object(m protoreflect.MessageDescriptor) schema {
	s := schema{Type: "object", Properties: map[string]schema{}}
	for i := range m.Fields().Len() {
		w.property(&s, m.Fields().Get(i))
	}
	slices.Sort(s.Required)
	if len(s.Properties) == 0 {
		s.Properties = nil
	}
	w.rules(&s, m)
	return s
}

// property adds field f to the schema of its message, with all that is said
// about the field but binds the message: required, immutable, unsupported.
func (w *walker) property(parent *schema, f protoreflect.FieldDescriptor) {
	about, ok := w.about(f)
	if !ok {
		return
	}
	property := w.field(f, about)
	property.Description = fieldDescription(f)
	parent.Properties[f.JSONName()] = property
	if about.limits.Required {
		parent.Required = append(parent.Required, f.JSONName())
	}
	w.bindings(parent, f, about)
}

// about is what the options say of a field.
type about struct {
	field  fieldOptions
	limits limits
}

// about reads a field's options and judges whether the field survives. It
// returns false if nothing can be made of the field.
func (w *walker) about(f protoreflect.FieldDescriptor) (about, bool) {
	var a about
	if _, err := w.options.read(f, fieldOption, &a.field); err != nil {
		w.problems.add(f, "%v", err)
		return a, false
	}
	if _, err := w.options.read(f, limitOption, &a.limits); err != nil {
		w.problems.add(f, "%v", err)
		return a, false
	}
	return a, w.survives(f, a)
}

func (w *walker) field(f protoreflect.FieldDescriptor, a about) schema {
	var s schema
	switch {
	case f.IsMap():
		values := w.value(f.MapValue(), a)
		limitError(w, f, a.limits.Map.valuesOnto(&values))
		s = schema{Type: "object", AdditionalProperties: &apiextensions.JSONSchemaPropsOrBool{Allows: true, Schema: &values}}
	case f.IsList():
		items := w.value(f, a)
		limitError(w, f, a.limits.Repeated.itemsOnto(&items))
		s = schema{Type: "array", Items: &apiextensions.JSONSchemaPropsOrArray{Schema: &items}}
		listType(&s, a)
	default:
		s = w.value(f, a)
	}
	limitError(w, f, a.limits.onto(&s, f))
	w.setDefault(&s, f, a.field)
	s.Nullable = a.field.Nullable
	return s
}

func limitError(w *walker, f protoreflect.FieldDescriptor, err error) {
	if err != nil {
		w.problems.add(f, "%v", err)
	}
}

func listType(s *schema, a about) {
	switch {
	case len(a.field.ListMapKeys) > 0:
		kind := "map"
		s.XListType, s.XListMapKeys = &kind, a.field.ListMapKeys
	case a.limits.Repeated != nil && a.limits.Repeated.Unique:
		kind := "set"
		s.XListType = &kind
	}
}

// value is the schema of one value: a field's, a list item's or a map value's.
func (w *walker) value(f protoreflect.FieldDescriptor, a about) schema {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return schema{Type: "boolean"}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return int32Schema()
	case protoreflect.BytesKind:
		return schema{Type: "string", Format: "byte"}
	case protoreflect.EnumKind:
		return schema{Type: "string", Enum: words(f.Enum())}
	case protoreflect.MessageKind:
		return w.message(f.Message())
	}
	switch a.field.Format {
	case formatQuantity:
		return schema{XIntOrString: true, AnyOf: intOrString(), Pattern: quantity}
	case formatIntOrString:
		return schema{XIntOrString: true, AnyOf: intOrString()}
	}
	return schema{Type: "string"}
}

func intOrString() []schema {
	return []schema{{Type: "integer"}, {Type: "string"}}
}

// int32Schema spells the limits out: the API server takes format int32 for a
// remark and lets larger numbers in, which nobody could decode afterwards.
func int32Schema() schema {
	low, high := float64(math.MinInt32), float64(math.MaxInt32)
	return schema{Type: "integer", Format: "int32", Minimum: &low, Maximum: &high}
}

func words(e protoreflect.EnumDescriptor) []apiextensions.JSON {
	var values []apiextensions.JSON
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			values = append(values, jsonString(string(v.Name())))
		}
	}
	return values
}

// message is the schema of a message that is a value. The well-known ones
// whose JSON form is no object get what their JSON form is.
func (w *walker) message(m protoreflect.MessageDescriptor) schema {
	free := true
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return schema{Type: "string", Format: "date-time"}
	case "google.protobuf.Struct":
		return schema{Type: "object", XPreserveUnknownFields: &free}
	case "google.protobuf.Value":
		return schema{XPreserveUnknownFields: &free}
	}
	return w.object(m)
}
