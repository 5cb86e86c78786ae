package explain

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	explainv1 "orlop.dev/gen/orlop/explain/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// statusOf is an object's status, nil where it has none.
func statusOf(k *kind.Kind, object resource.Object) protoreflect.Message {
	m := object.ProtoReflect()
	if k.Status == nil || !m.Has(k.Status) {
		return nil
	}
	return m.Get(k.Status).Message()
}

// word is a text field or an enum of a message, empty where it has none.
func word(m protoreflect.Message, name protoreflect.Name) string {
	if m == nil {
		return ""
	}
	f := m.Descriptor().Fields().ByName(name)
	switch {
	case f == nil || f.IsList() || f.IsMap() || !m.Has(f):
		return ""
	case f.Kind() == protoreflect.StringKind:
		return m.Get(f).String()
	case f.Kind() == protoreflect.EnumKind:
		if value := f.Enum().Values().ByNumber(m.Get(f).Enum()); value != nil {
			return string(value.Name())
		}
	}
	return ""
}

// findings are the gates of a kind that don't hold, in their order. One that the
// service has not looked at yet doesn't hold either. A kind without gates is told
// of by all that has something to say.
func findings(k *kind.Kind, status protoreflect.Message) []*explainv1.Finding {
	conditions := conditionsIn(status)
	gates := k.Gates
	if len(gates) == 0 {
		for _, c := range conditions {
			if c.GetMessage() != "" {
				gates = append(gates, c.GetType())
			}
		}
	}
	var found []*explainv1.Finding
	for _, gate := range gates {
		at := slices.IndexFunc(conditions, func(c *metav1.Condition) bool { return c.GetType() == gate })
		if at < 0 || conditions[at].GetStatus() == metav1.ConditionStatus_True {
			continue
		}
		c := conditions[at]
		if c.GetStatus() == metav1.ConditionStatus_Unknown && c.GetMessage() == "" {
			continue // another one says why
		}
		found = append(found, &explainv1.Finding{
			Condition: gate, Reason: c.GetReason(), Message: c.GetMessage(), Since: c.GetLastTransitionTime(),
		})
	}
	if len(conditions) == 0 && len(k.Gates) > 0 {
		found = append(found, &explainv1.Finding{
			Condition: k.Gates[0], Reason: "Unknown", Message: "Its service has not looked at it yet.",
		})
	}
	return found
}

func conditionsIn(status protoreflect.Message) []*metav1.Condition {
	if status == nil {
		return nil
	}
	f := status.Descriptor().Fields().ByName("conditions")
	if f == nil || !f.IsList() || f.Message() == nil {
		return nil
	}
	var conditions []*metav1.Condition
	list := status.Get(f).List()
	for i := range list.Len() {
		if c, is := list.Get(i).Message().Interface().(*metav1.Condition); is {
			conditions = append(conditions, c)
		}
	}
	return conditions
}

// references are the objects that an object's spec, or its status, names: by a
// kind and a name side by side, or by a field that is called after a kind
// (virtual_machine_class_name).
func references(at place, object resource.Object) []place {
	r := reader{namespace: at.key.Namespace}
	m := object.ProtoReflect()
	for _, part := range []protoreflect.FieldDescriptor{at.kind.Spec, at.kind.Status} {
		if part != nil && m.Has(part) {
			r.read(m.Get(part).Message())
		}
	}
	return r.found
}

// reader collects references.
type reader struct {
	namespace string
	found     []place
}

func (r *reader) read(m protoreflect.Message) {
	if name := word(m, "name"); name != "" && word(m, "kind") != "" {
		r.add(word(m, "kind"), word(m, "namespace"), name)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		value := m.Get(f)
		switch {
		case !m.Has(f), f.IsMap():
		case f.IsList() && f.Message() != nil:
			for i := range value.List().Len() {
				r.read(value.List().Get(i).Message())
			}
		case f.IsList():
		case f.Message() != nil:
			r.read(value.Message())
		case f.Kind() == protoreflect.StringKind:
			if kind, named := strings.CutSuffix(string(f.Name()), "_name"); named {
				r.add(strings.ReplaceAll(kind, "_", ""), "", value.String())
			}
		}
	}
}

// add keeps a reference to a kind of ours; there are others, such as Secrets.
func (r *reader) add(name, namespace, object string) {
	k, err := Find(name)
	if err != nil {
		return
	}
	key := resource.Key{Name: object}
	if k.Namespaced {
		if key.Namespace = namespace; namespace == "" {
			key.Namespace = r.namespace
		}
	}
	if at := (place{k, key}); !slices.Contains(r.found, at) {
		r.found = append(r.found, at)
	}
}
