package reconcile

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
)

// statusOf returns the status of an object, nil where it has none.
func statusOf(obj resource.Object) proto.Message {
	m := obj.ProtoReflect()
	f := m.Descriptor().Fields().ByName("status")
	if f == nil || !m.Has(f) {
		return nil
	}
	return m.Get(f).Message().Interface()
}

// urgent says whether a change of status is more than progress: a first
// status, another phase, another generation looked at, or a condition that
// began, ended, turned or has another reason.
func urgent(old, next proto.Message) bool {
	if old == nil {
		return true
	}
	a, b := old.ProtoReflect(), next.ProtoReflect()
	for _, name := range []protoreflect.Name{"phase", "observed_generation"} {
		if f := a.Descriptor().Fields().ByName(name); f != nil && !a.Get(f).Equal(b.Get(f)) {
			return true
		}
	}
	return turned(conditionsOf(a), conditionsOf(b))
}

func turned(old, next []*metav1.Condition) bool {
	if len(old) != len(next) {
		return true
	}
	for i, o := range old {
		n := next[i]
		if o.GetType() != n.GetType() || o.GetStatus() != n.GetStatus() || o.GetReason() != n.GetReason() ||
			o.GetObservedGeneration() != n.GetObservedGeneration() {
			return true
		}
	}
	return false
}

func conditionsOf(status protoreflect.Message) []*metav1.Condition {
	f := status.Descriptor().Fields().ByName("conditions")
	if f == nil || !f.IsList() || f.Message() == nil {
		return nil
	}
	list := status.Get(f).List()
	var all []*metav1.Condition
	for i := range list.Len() {
		if c, ok := list.Get(i).Message().Interface().(*metav1.Condition); ok {
			all = append(all, c)
		}
	}
	return all
}
