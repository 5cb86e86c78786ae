package schema

import (
	"context"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"orlop.dev/kit/fault"
)

// Validate returns a fault of class Invalid that names each value that breaks a
// rule. old is the state that is replaced, nil at a creation: a value that broke
// a rule before and wasn't changed is let through, as the API server does.
// Neither manifest is changed.
func (s *Schema) Validate(manifest, old map[string]any) error {
	var errs field.ErrorList
	if old == nil {
		errs = s.create(manifest)
	} else {
		errs = s.update(manifest, old)
	}
	return Refusal(errs)
}

// create and update keep the API server's order, so that the first error that is
// named is the same at every door.
func (s *Schema) create(manifest map[string]any) field.ErrorList {
	errs := validation.ValidateCustomResource(nil, manifest, s.validator)
	errs = append(errs, objectmeta.Validate(nil, manifest, s.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, manifest)...)
	return append(errs, s.judge(errs, manifest, nil)...)
}

func (s *Schema) update(manifest, old map[string]any) field.ErrorList {
	// An absent old state is a typed nil map to the rules; create handles it.
	correlated := common.NewCorrelatedObject(manifest, old, &model.Structural{Structural: s.structural})
	errs := validation.ValidateCustomResourceUpdate(nil, manifest, old, s.validator, validation.WithRatcheting(correlated))
	errs = append(errs, objectmeta.Validate(nil, manifest, s.structural, false)...)
	if len(listtype.ValidateListSetsAndMaps(nil, s.structural, old)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, manifest)...)
	}
	return append(errs, s.judge(errs, manifest, old, cel.WithRatcheting(correlated))...)
}

// judge runs the CEL rules, unless an earlier error makes their verdict
// meaningless: rules may rely on types, sizes and required fields.
func (s *Schema) judge(earlier field.ErrorList, manifest, old map[string]any, opts ...cel.Option) field.ErrorList {
	if s.rules == nil {
		return nil
	}
	for _, err := range earlier {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong,
			field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return nil
		}
	}
	var before any // an untyped nil where there is none: rules on oldSelf ask for it
	if old != nil {
		before = old
	}
	errs, _ := s.rules.Validate(context.Background(), nil, s.structural, manifest, before, celconfig.RuntimeCELCostBudget, opts...)
	return errs
}

// Refusal makes Kubernetes' field errors a fault, nil if there are none.
func Refusal(errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	messages := make([]string, len(errs))
	for i, err := range errs {
		messages[i] = err.Error()
	}
	f := fault.New(fault.Invalid, fault.ReasonInvalid, "%s", strings.Join(messages, "; "))
	for _, err := range errs {
		f = f.WithField(jsonPath(err.Field), string(err.Type), err.ErrorBody())
	}
	return f
}

// jsonPath is a field's path without the dots and "<nil>" by which Kubernetes names
// the root.
func jsonPath(field string) string {
	field = strings.TrimPrefix(field, "<nil>")
	return strings.TrimPrefix(field, ".")
}
