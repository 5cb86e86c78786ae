// Package resource keeps objects of any kind: the store (Collection, on etcd),
// the standard methods of a service over it (Methods, Register), and the caller's
// side of them (Client, Mirror).
//
// It knows what all kinds share: metadata, versions, finalizers, holders. It must
// not know any kind by name, nor who may do what.
package resource

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/kind"
)

// Object is an object of any kind. Every generated kind is one.
type Object interface {
	proto.Message
	GetApiVersion() string
	GetKind() string
	GetMetadata() *metav1.ObjectMeta
}

// Key names an object within its kind. Namespace is empty for kinds of the cluster.
type Key struct{ Namespace, Name string }

// String is namespace/name, or name alone.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// path is the key's place under a collection's prefix. Its byte order is the
// order of lists.
func (k Key) path() string { return k.Namespace + "/" + k.Name }

// KeyOf returns the key of an object.
func KeyOf(o Object) Key {
	return Key{Namespace: o.GetMetadata().GetNamespace(), Name: o.GetMetadata().GetName()}
}

// Terminating reports whether deletion was asked for.
func Terminating(o Object) bool { return o.GetMetadata().GetDeletionTimestamp() != nil }

// Gone reports whether o, as a Delete or a removal returned it, was the object's
// last state: deletion was asked for and nothing held it any more.
func Gone(o Object) bool {
	return Terminating(o) && len(o.GetMetadata().GetFinalizers()) == 0 && !Held(o)
}

// Held reports whether a holder really uses the object now.
func Held(o Object) bool {
	for _, h := range o.GetMetadata().GetHolders() {
		if h.GetActive() {
			return true
		}
	}
	return false
}

// Clone returns a deep copy of o.
func Clone[T Object](o T) T { return proto.Clone(o).(T) }

// New returns an empty object of kind k, as T, with apiVersion and kind set.
func New[T Object](k *kind.Kind) T { return k.New().(T) }

// meta returns the metadata of o to write to, made where it is missing. Generated
// kinds have getters only, so it goes by reflection.
func meta(k *kind.Kind, o Object) *metav1.ObjectMeta {
	return o.ProtoReflect().Mutable(k.Metadata).Message().Interface().(*metav1.ObjectMeta)
}

// setMeta replaces the metadata of o.
func setMeta(k *kind.Kind, o Object, m *metav1.ObjectMeta) {
	o.ProtoReflect().Set(k.Metadata, protoreflect.ValueOfMessage(m.ProtoReflect()))
}

// timestamp is t as objects keep it: whole seconds, as Kubernetes does.
func timestamp(t time.Time) *timestamppb.Timestamp {
	return timestamppb.New(t.Truncate(time.Second))
}
