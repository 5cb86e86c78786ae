package auth

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	schemav1 "orlop.dev/gen/orlop/schema/v1"
	"orlop.dev/kit/resource/kind"
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
	// needNothing is for what anybody may ask, and for methods that judge a
	// credential in the request by themselves.
	needNothing
)

// rule is what one method needs. A method without a rule is refused.
type rule struct {
	need       need
	attributes Attributes
	// kind is what the method's service serves; nil if it serves none.
	kind *kind.Kind
	// namespaced methods act within a namespace; those that are wide may leave
	// it out and mean all of them.
	namespaced, wide bool
	// named methods act on one object that is there already.
	named bool
}

// exceptions are the foreign services that the suite serves: they carry no
// option of ours.
var exceptions = map[protoreflect.FullName]need{
	"grpc.health.v1.Health":                    needNothing,
	"grpc.reflection.v1.ServerReflection":      needUser,
	"grpc.reflection.v1alpha.ServerReflection": needUser,
}

// rules reads from the descriptors what every method needs, by the method's
// path ("/package.Service/Method").
func rules(files *protoregistry.Files) map[string]rule {
	kinds := map[protoreflect.FullName]*kind.Kind{}
	for _, k := range kind.All() {
		kinds[k.Service] = k
	}
	all := map[string]rule{}
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			addService(all, s, kinds[s.FullName()])
		}
		return true
	})
	return all
}

func addService(all map[string]rule, s protoreflect.ServiceDescriptor, k *kind.Kind) {
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		if r, ok := ruleOf(m, k); ok {
			all[kind.Path(m)] = r
		}
	}
}

func ruleOf(m protoreflect.MethodDescriptor, k *kind.Kind) (rule, bool) {
	if n, ok := exceptions[m.Parent().FullName()]; ok {
		return rule{need: n}, true
	}
	if a, ok := proto.GetExtension(m.Options(), schemav1.E_Access).(*schemav1.Access); ok && a != nil {
		return optionRule(a, m, k)
	}
	return standardRule(m, k)
}

// optionRule follows the method's own option, whatever its name.
func optionRule(a *schemav1.Access, m protoreflect.MethodDescriptor, k *kind.Kind) (rule, bool) {
	switch {
	case a.GetInternal():
		return rule{need: needInternal}, true
	case a.GetAuthenticated():
		return rule{need: needUser}, true
	case a.GetBearer():
		return rule{need: needNothing}, true
	case a.GetVerb() == "":
		return rule{}, false
	}
	// A request that has no place for a name is about all objects.
	named := nameField(m.Input()) != nil || k != nil
	r := rule{kind: k, named: named, attributes: Attributes{
		Verb: a.GetVerb(), Group: a.GetGroup(), Resource: a.GetResource(), Subresource: a.GetSubresource(),
	}}
	own := k != nil && (a.GetResource() == "" || a.GetResource() == k.Plural)
	if own {
		r.attributes.Resource, r.namespaced = k.Plural, k.Namespaced
	} else {
		// What another kind's scope is, the request must tell.
		r.namespaced = m.Input().Fields().ByName("namespace") != nil
	}
	if r.attributes.Group == "" && k != nil {
		r.attributes.Group = k.Group
	}
	return r, r.attributes.Resource != ""
}

// standardRule is for the methods whose name and kind say it all. Claim and
// Release are standard, but which right they'd need only an option can say.
func standardRule(m protoreflect.MethodDescriptor, k *kind.Kind) (rule, bool) {
	if k == nil {
		return rule{}, false
	}
	verb, ok := k.VerbOf(m.FullName())
	if !ok || verb == kind.Claim || verb == kind.Release {
		return rule{}, false
	}
	wide := verb == kind.List || verb == kind.Watch
	return rule{
		kind:       k,
		namespaced: k.Namespaced,
		wide:       wide,
		named:      !wide && verb != kind.Create,
		attributes: Attributes{Verb: string(verb), Group: k.Group, Resource: k.Plural},
	}, true
}
