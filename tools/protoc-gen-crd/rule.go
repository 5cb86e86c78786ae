package main

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiserver/pkg/cel"
)

// rules adds a message's own rules to its schema.
func (w *walker) rules(s *schema, m protoreflect.MessageDescriptor) {
	var rules []rule
	if _, err := w.options.read(m, ruleOption, &rules); err != nil {
		w.problems.add(m, "%v", err)
	}
	seen := map[string]bool{}
	for _, r := range rules {
		if r.ID == "" || r.Rule == "" || r.Message == "" {
			w.problems.add(m, "rule %q needs an id, a rule and a message", r.ID)
		}
		if seen[r.ID] {
			w.problems.add(m, "rule %q is there twice", r.ID)
		}
		seen[r.ID] = true
		s.XValidations = append(s.XValidations, apiextensions.ValidationRule{Rule: r.Rule, Message: r.Message})
	}
}

// bindings adds to the schema of a message what its field f demands of it.
func (w *walker) bindings(parent *schema, f protoreflect.FieldDescriptor, a about) {
	name, ok := cel.Escape(f.JSONName())
	if !ok {
		w.problems.add(f, "its JSON name can't be used in rules")
		return
	}
	if a.field.Immutable {
		immutable(parent, f.JSONName(), name, a.limits.Required)
	}
	if a.field.Unsupported != "" {
		forbidden := apiextensions.FieldValueForbidden
		parent.XValidations = append(parent.XValidations, apiextensions.ValidationRule{
			Rule:      fmt.Sprintf("!has(self.%s)", name),
			Message:   fmt.Sprintf("%s is not supported yet: %s", f.JSONName(), a.field.Unsupported),
			FieldPath: "." + f.JSONName(),
			Reason:    &forbidden,
		})
	}
}

// immutable freezes a field. A required one is always there and carries the
// rule itself. Of any other the message must judge: no rule of its own runs
// when it is added or removed.
func immutable(parent *schema, property, name string, required bool) {
	message := property + " is immutable"
	if required {
		s := parent.Properties[property]
		s.XValidations = append(s.XValidations, apiextensions.ValidationRule{
			Rule: "self == oldSelf", Message: message,
		})
		parent.Properties[property] = s
		return
	}
	parent.XValidations = append(parent.XValidations, apiextensions.ValidationRule{
		Rule: fmt.Sprintf("has(self.%[1]s) == has(oldSelf.%[1]s) && (!has(self.%[1]s) || self.%[1]s == oldSelf.%[1]s)",
			name),
		Message:   message,
		FieldPath: "." + property,
	})
}
