package kind

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Methods are the standard methods of a kind. Any may be missing.
type Methods struct {
	Create, Get, List, Update, Delete, Watch, Claim, Release protoreflect.MethodDescriptor
}

// Verb is what a standard method does: the first word of its name, lower case.
type Verb string

// The verbs of the standard methods.
const (
	Create  Verb = "create"
	Get     Verb = "get"
	List    Verb = "list"
	Update  Verb = "update"
	Delete  Verb = "delete"
	Watch   Verb = "watch"
	Claim   Verb = "claim"
	Release Verb = "release"
)

// Verbs returns the verbs of all standard methods.
func Verbs() []Verb { return []Verb{Create, Get, List, Update, Delete, Watch, Claim, Release} }

// Of returns the method of a verb, nil where there is none.
func (m *Methods) Of(v Verb) protoreflect.MethodDescriptor {
	if slot := m.slot(v); slot != nil {
		return *slot
	}
	return nil
}

func (m *Methods) slot(v Verb) *protoreflect.MethodDescriptor {
	switch v {
	case Create:
		return &m.Create
	case Get:
		return &m.Get
	case List:
		return &m.List
	case Update:
		return &m.Update
	case Delete:
		return &m.Delete
	case Watch:
		return &m.Watch
	case Claim:
		return &m.Claim
	case Release:
		return &m.Release
	}
	return nil
}

// VerbOf returns the verb of a method of the kind's service, false where it is
// not a standard one.
func (k *Kind) VerbOf(method protoreflect.FullName) (Verb, bool) {
	for _, v := range Verbs() {
		if d := k.Methods.Of(v); d != nil && d.FullName() == method {
			return v, true
		}
	}
	return "", false
}

// Path is the path of a method in gRPC: /orlop.disk.v1.VirtualDiskService/GetVirtualDisk.
func Path(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// findService looks for the service that has the kind's standard methods, first
// in the kind's own package. A service is the kind's if it can at least Get it.
func (k *Kind) findService() {
	protoregistry.GlobalFiles.RangeFilesByPackage(k.Descriptor.ParentFile().Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if m := k.methodsOf(s); m.Get != nil {
				k.Service, k.Methods = s.FullName(), m
				return false
			}
		}
		return true
	})
}

// methodsOf finds methods by verb and the kind's singular or plural, in whatever
// case: neither "+s" nor CamelCase can be derived from one another.
func (k *Kind) methodsOf(s protoreflect.ServiceDescriptor) Methods {
	byName := make(map[string]protoreflect.MethodDescriptor, s.Methods().Len())
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		byName[strings.ToLower(string(m.Name()))] = m
	}
	var found Methods
	for _, v := range Verbs() {
		for _, noun := range []string{k.Singular, k.Plural} {
			if m := byName[string(v)+noun]; m != nil && *found.slot(v) == nil {
				*found.slot(v) = m
			}
		}
	}
	return found
}
