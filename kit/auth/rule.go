package auth

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	schemav1 "orlop.dev/gen/orlop/schema/v1"
)

// need says what kind of credential a method asks for.
type need int

const (
	// needRight asks for a user with the right that the rule names.
	needRight need = iota
	// needUser asks for any known user.
	needUser
	// needInternal asks for one of the suite's own services.
	needInternal
	// needNothing is for what anybody may ask.
	needNothing
)

// rule is what one method needs. A method without a rule is refused.
type rule struct {
	need       need
	attributes Attributes
	// kind is the message of the objects that the method acts on, if the
	// service has one.
	kind protoreflect.MessageDescriptor
	// namespaced methods act within a namespace; wholeCluster ones may also
	// leave it out and mean all of them.
	namespaced, wholeCluster bool
	// named methods act on one object that is there already.
	named bool
}

// verbs maps the prefixes of the standard methods to Kubernetes' verbs.
var verbs = []struct{ prefix, verb string }{
	{"Create", "create"}, {"Get", "get"}, {"List", "list"},
	{"Update", "update"}, {"Delete", "delete"}, {"Watch", "watch"},
}

// exceptions are the foreign services that the suite serves: they carry no
// option of ours.
var exceptions = map[protoreflect.FullName]need{
	"grpc.health.v1.Health":                    needNothing,
	"grpc.reflection.v1.ServerReflection":      needUser,
	"grpc.reflection.v1alpha.ServerReflection": needUser,
}

// rules reads from the descriptors what every method needs, by full method
// name ("/package.Service/Method").
func rules(files *protoregistry.Files) map[string]rule {
	all := map[string]rule{}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			addService(all, f.Services().Get(i))
		}
		return true
	})
	return all
}

func addService(all map[string]rule, s protoreflect.ServiceDescriptor) {
	kind := kindOf(s)
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		if r, ok := ruleOf(m, kind); ok {
			all["/"+string(s.FullName())+"/"+string(m.Name())] = r
		}
	}
}

func ruleOf(m protoreflect.MethodDescriptor, kind protoreflect.MessageDescriptor) (rule, bool) {
	if n, ok := exceptions[m.Parent().FullName()]; ok {
		return rule{need: n}, true
	}
	if access, ok := proto.GetExtension(m.Options(), schemav1.E_Access).(*schemav1.Access); ok && access != nil {
		return optionRule(access, m, kind)
	}
	if kind == nil {
		return rule{}, false
	}
	return standardRule(m, kind)
}

// optionRule follows the method's own option, whatever its name.
func optionRule(a *schemav1.Access, m protoreflect.MethodDescriptor, kind protoreflect.MessageDescriptor) (rule, bool) {
	switch {
	case a.GetInternal():
		return rule{need: needInternal}, true
	case a.GetAuthenticated():
		return rule{need: needUser}, true
	case a.GetVerb() == "":
		return rule{}, false
	}
	r := rule{kind: kind, named: true, attributes: Attributes{
		Verb: a.GetVerb(), Group: a.GetGroup(), Resource: a.GetResource(), Subresource: a.GetSubresource(),
	}}
	res := resourceOf(kind)
	if r.attributes.Resource == "" {
		r.attributes.Resource = res.GetPlural()
	}
	if r.attributes.Group == "" {
		r.attributes.Group = res.GetGroup()
	}
	if a.GetResource() == "" || a.GetResource() == res.GetPlural() {
		r.namespaced = namespaced(res)
	} else {
		// Another kind's resource: its request tells the scope.
		r.namespaced = m.Input().Fields().ByName("namespace") != nil
	}
	return r, r.attributes.Resource != ""
}

// standardRule knows a standard method by its verb and the kind's singular or
// plural name. Comparing without case is what finds VirtualMachineClasses.
func standardRule(m protoreflect.MethodDescriptor, kind protoreflect.MessageDescriptor) (rule, bool) {
	res := resourceOf(kind)
	for _, v := range verbs {
		noun, ok := strings.CutPrefix(string(m.Name()), v.prefix)
		if !ok {
			continue
		}
		many := v.verb == "list" || v.verb == "watch"
		want := string(kind.Name())
		if many {
			want = res.GetPlural()
		}
		if !strings.EqualFold(noun, want) {
			return rule{}, false
		}
		return rule{
			kind:         kind,
			namespaced:   namespaced(res),
			wholeCluster: many,
			named:        !many && v.verb != "create",
			attributes:   Attributes{Verb: v.verb, Group: res.GetGroup(), Resource: res.GetPlural()},
		}, true
	}
	return rule{}, false
}

// kindOf finds the kind that a service serves: what its methods return.
func kindOf(s protoreflect.ServiceDescriptor) protoreflect.MessageDescriptor {
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		if out := m.Output(); resourceOf(out) != nil && strings.HasSuffix(string(m.Name()), string(out.Name())) {
			return out
		}
	}
	return nil
}

// resourceOf returns the resource option of a message, or nil. The getters of
// a nil option answer with zeros.
func resourceOf(m protoreflect.MessageDescriptor) *schemav1.Resource {
	if m == nil || !proto.HasExtension(m.Options(), schemav1.E_Resource) {
		return nil
	}
	res, _ := proto.GetExtension(m.Options(), schemav1.E_Resource).(*schemav1.Resource)
	return res
}

func namespaced(res *schemav1.Resource) bool {
	return res.GetScope() == schemav1.Resource_SCOPE_NAMESPACED
}
