package manifest

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	schemav1 "orlop.dev/gen/orlop/schema/v1"
	"orlop.dev/kit/fault"
)

// Rules that a manifest can break before its schema is asked. The words are those
// of the API server's field errors.
const (
	ruleUnknown     = "FieldUnknown"
	ruleType        = "FieldValueTypeInvalid"
	ruleInvalid     = "FieldValueInvalid"
	ruleUnsupported = "FieldValueNotSupported"
)

// Names of the messages that have a JSON form of their own.
const (
	timestampName = "google.protobuf.Timestamp"
	durationName  = "google.protobuf.Duration"
	structName    = "google.protobuf.Struct"
	valueName     = "google.protobuf.Value"
	listName      = "google.protobuf.ListValue"
)

// cleaner copies a manifest into the JSON that protojson reads without loss, and
// collects what it refuses.
type cleaner struct{ refused []fault.Field }

func (c *cleaner) refuse(path, rule, format string, args ...any) any {
	c.refused = append(c.refused, fault.Field{Path: path, Rule: rule, Message: fmt.Sprintf(format, args...)})
	return nil
}

func (c *cleaner) refuseType(path, want string, got any) any {
	return c.refuse(path, ruleType, "Invalid value: %q: %s in body must be of type %s: %q", typeName(got), path, want, typeName(got))
}

func (c *cleaner) fault() error {
	messages := make([]string, len(c.refused))
	for i, f := range c.refused {
		messages[i] = f.Path + ": " + f.Message
	}
	f := fault.New(fault.Invalid, fault.ReasonInvalid, "%s", strings.Join(messages, "; "))
	f.Fields = c.refused
	return f
}

// message cleans an object by the descriptor of its message.
func (c *cleaner) message(path string, v any, d protoreflect.MessageDescriptor) any {
	switch d.FullName() {
	case timestampName:
		return c.timestamp(path, v)
	case durationName:
		return c.text(path, v)
	case valueName:
		return v
	case listName:
		if _, ok := v.([]any); !ok {
			return c.refuseType(path, "array", v)
		}
		return v
	}
	object, ok := v.(map[string]any)
	if !ok {
		return c.refuseType(path, "object", v)
	}
	if d.FullName() == structName {
		return object
	}
	return c.fields(path, object, d)
}

func (c *cleaner) fields(path string, object map[string]any, d protoreflect.MessageDescriptor) any {
	clean := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		at := join(path, key)
		f := fieldOf(d, key)
		switch {
		case f == nil:
			c.refuse(at, ruleUnknown, "unknown field")
		case object[key] == nil && !nullHasMeaning(f):
			// The API server prunes nulls; in protobuf too they mean unset.
		case object[key] == "" && f.Kind() == protoreflect.EnumKind && !f.IsList():
			// An empty word is no word.
		default:
			clean[key] = c.field(at, object[key], f)
		}
	}
	return clean
}

func nullHasMeaning(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == valueName
}

// field cleans the value of a field: a list, a map or a single one.
func (c *cleaner) field(path string, v any, f protoreflect.FieldDescriptor) any {
	switch {
	case f.IsMap():
		object, ok := v.(map[string]any)
		if !ok {
			return c.refuseType(path, "object", v)
		}
		clean := make(map[string]any, len(object))
		for _, key := range slices.Sorted(maps.Keys(object)) {
			clean[key] = c.single(join(path, key), object[key], f.MapValue(), numeric(f))
		}
		return clean
	case f.IsList():
		list, ok := v.([]any)
		if !ok {
			return c.refuseType(path, "array", v)
		}
		clean := make([]any, len(list))
		for i, element := range list {
			clean[i] = c.single(path+"["+strconv.Itoa(i)+"]", element, f, numeric(f))
		}
		return clean
	}
	return c.single(path, v, f, numeric(f))
}

// single cleans one value. numeric says that a number may stand for its text.
func (c *cleaner) single(path string, v any, f protoreflect.FieldDescriptor, numeric bool) any {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return c.message(path, v, f.Message())
	case protoreflect.EnumKind:
		return c.enum(path, v, f.Enum())
	case protoreflect.BoolKind:
		if _, ok := v.(bool); !ok {
			return c.refuseType(path, "boolean", v)
		}
		return v
	case protoreflect.StringKind:
		if numeric {
			v = digits(v)
		}
		return c.text(path, v)
	case protoreflect.BytesKind:
		return c.bytes(path, v)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return c.integer(path, v)
	}
	return v // kinds have no other scalars; protojson judges what requests have
}

func (c *cleaner) text(path string, v any) any {
	if _, ok := v.(string); !ok {
		return c.refuseType(path, "string", v)
	}
	return v
}

func (c *cleaner) bytes(path string, v any) any {
	s, ok := v.(string)
	if !ok {
		return c.refuseType(path, "string", v)
	}
	if _, err := base64.StdEncoding.DecodeString(s); err != nil {
		return c.refuse(path, ruleInvalid, "Invalid value: %s in body must be of type byte (base64)", path)
	}
	return v
}

func (c *cleaner) timestamp(path string, v any) any {
	s, ok := v.(string)
	if !ok {
		return c.refuseType(path, "string", v)
	}
	if _, err := time.Parse(time.RFC3339, s); err != nil {
		return c.refuse(path, ruleInvalid, "Invalid value: %q: %s in body must be of type date-time: %q", s, path, s)
	}
	return v
}

func (c *cleaner) enum(path string, v any, d protoreflect.EnumDescriptor) any {
	word, ok := v.(string)
	if !ok {
		return c.refuseType(path, "string", v)
	}
	if value := d.Values().ByName(protoreflect.Name(word)); value != nil && value.Number() != 0 {
		return v
	}
	var known []string
	for i := range d.Values().Len() {
		if value := d.Values().Get(i); value.Number() != 0 {
			known = append(known, strconv.Quote(string(value.Name())))
		}
	}
	return c.refuse(path, ruleUnsupported, "Unsupported value: %q: supported values: %s", word, strings.Join(known, ", "))
}

func (c *cleaner) integer(path string, v any) any {
	n, ok := whole(v)
	switch {
	case !ok:
		return c.refuseType(path, "integer", v)
	case n > math.MaxInt32:
		return c.refuse(path, ruleInvalid, "Invalid value: %d: %s in body should be less than or equal to %d", n, path, math.MaxInt32)
	case n < math.MinInt32:
		return c.refuse(path, ruleInvalid, "Invalid value: %d: %s in body should be greater than or equal to %d", n, path, math.MinInt32)
	}
	return n
}

func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	case int32:
		return int64(v), true
	case float64:
		return int64(v), v == math.Trunc(v) && math.Abs(v) < 1<<53
	}
	return 0, false
}

// digits writes a number as a quantity writes it, and leaves everything else.
func digits(v any) any {
	if n, ok := whole(v); ok {
		return strconv.FormatInt(n, 10)
	}
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return v
}

// numeric reports whether manifests may write the field's text as a number.
func numeric(f protoreflect.FieldDescriptor) bool {
	o, ok := proto.GetExtension(f.Options(), schemav1.E_Field).(*schemav1.Field)
	return ok && o.GetFormat() != schemav1.Field_FORMAT_UNSPECIFIED
}

// fieldOf finds a field by the name it has in manifests. protojson would also
// take the proto name, which is no field of the manifest.
func fieldOf(d protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	return d.Fields().ByJSONName(key)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case float64:
		if v != math.Trunc(v) {
			return "number"
		}
	}
	return "integer"
}
