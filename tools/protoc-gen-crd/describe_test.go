package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// `kubectl explain` teaches only where there is something to read.
func TestEveryFieldIsDescribed(t *testing.T) {
	for name, content := range definitions(t, apiFiles(t)...) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		var d apiextensions.CustomResourceDefinition
		if err := yaml.UnmarshalStrict([]byte(content), &d); err != nil {
			t.Fatal(err)
		}
		root := d.Spec.Versions[0].Schema.OpenAPIV3Schema
		for _, top := range []string{"spec", "status"} {
			for _, path := range undescribed(top, root.Properties[top]) {
				t.Errorf("%s %s: neither the field nor its message has a comment", d.Spec.Names.Kind, path)
			}
		}
	}
}

func undescribed(path string, s apiextensions.JSONSchemaProps) []string {
	var paths []string
	if s.Description == "" {
		paths = append(paths, path)
	}
	if s.Items != nil {
		path, s = path+"[]", *s.Items.Schema
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		paths = append(paths, undescribed(path+"."+name, s.Properties[name])...)
	}
	return paths
}
