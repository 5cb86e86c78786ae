package main

import (
	"context"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime"
)

// refusals lists why the API server would refuse a new definition, by the API
// server's own code: structural schema, defaults, CEL types and CEL costs.
func refusals(d *apiextensions.CustomResourceDefinition) []error {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	defaulted := d.DeepCopy()
	scheme.Default(defaulted)
	var judged internal.CustomResourceDefinition
	if err := scheme.Convert(defaulted, &judged, nil); err != nil {
		return []error{err}
	}
	var reasons []error
	for _, reason := range validation.ValidateCustomResourceDefinition(context.Background(), &judged) {
		reasons = append(reasons, reason)
	}
	return reasons
}
