package main

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// survives tells whether the values of f come through protobuf, JSON and the
// API server unchanged, and notes why not. It returns false only where going
// on makes no sense.
func (w *walker) survives(f protoreflect.FieldDescriptor, a about) bool {
	w.checkName(f)
	w.checkPresence(f, a)
	w.checkOptions(f, a)
	if of := f.ContainingOneof(); of != nil && !of.IsSynthetic() {
		w.problems.add(f, "a oneof can't be told in a CRD; use fields and a rule")
	}
	value := f
	if f.IsMap() {
		value = f.MapValue()
		if f.MapKey().Kind() != protoreflect.StringKind {
			w.problems.add(f, "only strings can be keys of a map")
		}
	}
	return w.checkKind(f, value)
}

// checkKind judges the type of a value; f is the field to name.
func (w *walker) checkKind(f, value protoreflect.FieldDescriptor) bool {
	switch value.Kind() {
	case protoreflect.BoolKind, protoreflect.StringKind, protoreflect.BytesKind,
		protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return true
	case protoreflect.EnumKind:
		return w.checkEnum(f, value.Enum())
	case protoreflect.MessageKind:
		return w.checkMessage(f, value.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		w.problems.add(f, "a %v is rounded on its way; use a string or an int32", value.Kind())
	default:
		w.problems.add(f, "JSON shows a %v as a string or loses its sign; use an int32", value.Kind())
	}
	return false
}

func (w *walker) checkEnum(f protoreflect.FieldDescriptor, e protoreflect.EnumDescriptor) bool {
	holder, nested := e.Parent().(protoreflect.MessageDescriptor)
	if !nested || e.Name() != "Value" || holder.Fields().Len() > 0 || holder.Enums().Len() > 1 {
		w.problems.add(f, "enum %s must be called Value and sit alone in a message of its own", e.FullName())
		return false
	}
	if zero := e.Values().ByNumber(0); zero == nil || zero.Name() != "Unspecified" {
		w.problems.add(f, "enum %s must call its zero Unspecified", e.FullName())
	}
	return true
}

// What to use instead of the well-known messages that have no place in a
// manifest; those that do are known to walker.message.
var instead = map[protoreflect.FullName]string{
	"google.protobuf.Duration":  "a string",
	"google.protobuf.FieldMask": "a list of strings",
	"google.protobuf.Any":       "google.protobuf.Struct",
	"google.protobuf.ListValue": "a repeated field",
	"google.protobuf.Empty":     "a message of your own",
}

func (w *walker) checkMessage(f protoreflect.FieldDescriptor, m protoreflect.MessageDescriptor) bool {
	if better, known := instead[m.FullName()]; known {
		w.problems.add(f, "%s reads differently in a manifest; use %s", m.FullName(), better)
		return false
	}
	if isWellKnown(m) {
		if strings.HasSuffix(string(m.Name()), "Value") && m.Name() != "Value" {
			w.problems.add(f, "%s: use an optional field", m.FullName())
			return false
		}
		return true
	}
	if reaches(m, m, map[protoreflect.FullName]bool{}) {
		w.problems.add(f, "%s contains itself, which a structural schema can't say", m.FullName())
		return false
	}
	return true
}

// reaches tells whether a message of type target can sit somewhere in one of
// type from.
func reaches(from, target protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[from.FullName()] || isWellKnown(from) {
		return false
	}
	seen[from.FullName()] = true
	for i := range from.Fields().Len() {
		inner := from.Fields().Get(i).Message()
		if inner == nil {
			continue
		}
		if inner.FullName() == target.FullName() || reaches(inner, target, seen) {
			return true
		}
	}
	return false
}

// checkName refuses a JSON name that is another word than the proto's: one of
// them would be missing from somebody's search.
func (w *walker) checkName(f protoreflect.FieldDescriptor) {
	if plain := strings.ReplaceAll(string(f.Name()), "_", ""); !strings.EqualFold(plain, f.JSONName()) {
		w.problems.add(f, "its JSON name %s may differ in the case of letters only", f.JSONName())
	}
}

// checkPresence refuses a field whose zero and absence mean different things
// while the message can't tell them apart.
func (w *walker) checkPresence(f protoreflect.FieldDescriptor, a about) {
	if f.HasPresence() || f.IsList() || f.IsMap() {
		return
	}
	number := isNumber(f)
	switch {
	case (number || f.Kind() == protoreflect.BoolKind) && a.field.Default != "":
		w.problems.add(f, "it has a default, so it must be optional: zero can't be told from unset")
	case f.Kind() == protoreflect.BoolKind && a.limits.Required,
		number && a.limits.Required && a.limits.Int32.allows(0):
		w.problems.add(f, "it is required, so it must be optional, or zero excluded by a limit: zero is left out of JSON")
	case !a.limits.Required && a.limits.Ignore == "" && !a.limits.zeroIsLegal(f):
		w.problems.add(f, "its limits forbid its zero, which stands for unset too; "+
			"make it required or optional, or say ignore = IGNORE_IF_ZERO_VALUE")
	}
}

func isNumber(f protoreflect.FieldDescriptor) bool {
	switch f.Kind() {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return true
	}
	return false
}

// checkOptions refuses options that contradict each other or the field's type.
func (w *walker) checkOptions(f protoreflect.FieldDescriptor, a about) {
	value := f
	if f.IsMap() {
		value = f.MapValue()
	}
	free := value.Message() != nil && isWellKnown(value.Message())
	switch {
	case a.field.Unsupported != "" && (a.field.Default != "" || a.limits.Required):
		w.problems.add(f, "it can't be unsupported and have a default or be required")
	case a.field.Format != "" && value.Kind() != protoreflect.StringKind:
		w.problems.add(f, "only strings have a format")
	case a.field.Defaulted && (value.Kind() != protoreflect.StringKind || f.IsList() || f.IsMap() || a.limits.Required):
		w.problems.add(f, "only a text that may be left out can be filled in by its service")
	case a.field.PreserveUnknown && !free:
		w.problems.add(f, "only google.protobuf.Struct and Value keep what the schema doesn't know")
	case len(a.field.ListMapKeys) > 0 && (!f.IsList() || f.Message() == nil):
		w.problems.add(f, "only lists of messages have map keys")
	}
}
