package main

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// The fields of each kind of Deckhouse Virtualization are listed in
// testdata/fields-<Kind>.txt, one a line: path, type, and what else the schema
// says of it ("required", "default=", "enum="), separated by tabs and spaces.
// testdata/deviations.txt lists where ours is meant to differ, and why.
func TestFieldsAreThoseOfTheReference(t *testing.T) {
	meant := deviations(t)
	files := definitions(t, apiFiles(t)...)
	kinds := map[string]bool{}
	for name, content := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		kind, ours := fieldsOf(t, content)
		kinds[kind] = true
		theirs := referenceFields(t, kind)
		for _, path := range slices.Sorted(maps.Keys(union(ours, theirs))) {
			got, want := ours[path], theirs[path]
			if got == want {
				continue
			}
			key := kind + " " + path
			if !meant.covers(key) {
				t.Errorf("%s:\n got  %q\n want %q", key, got, want)
			}
		}
	}
	meant.complainAboutUnused(t)
	references, err := filepath.Glob("testdata/fields-*.txt")
	if err != nil || len(references) != len(kinds) {
		t.Errorf("%d kinds, %d references (%v)", len(kinds), len(references), err)
	}
}

// deviation is a line of deviations.txt. A path that ends in * covers all
// paths that start with what is before it.
type deviation struct {
	used bool
}

type deviationList map[string]*deviation

func deviations(t *testing.T) deviationList {
	t.Helper()
	list := deviationList{}
	for line := range strings.Lines(readFile(t, "testdata/deviations.txt")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, reason, ok := strings.Cut(line, ": ")
		if !ok || reason == "" {
			t.Errorf("deviations.txt: %q gives no reason", line)
		}
		list[key] = new(deviation)
	}
	return list
}

func (l deviationList) covers(key string) bool {
	_, path, _ := strings.Cut(key, " ")
	found := false
	for pattern, d := range l {
		kind, rest, _ := strings.Cut(pattern, " ")
		prefix, wild := strings.CutSuffix(rest, "*")
		if (kind == "*" || strings.HasPrefix(key, kind+" ")) &&
			(path == rest || wild && strings.HasPrefix(path, prefix)) {
			d.used, found = true, true
		}
	}
	return found
}

func (l deviationList) complainAboutUnused(t *testing.T) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(l)) {
		if !l[key].used {
			t.Errorf("deviations.txt: %s no longer deviates", key)
		}
	}
}

func referenceFields(t *testing.T, kind string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(readFile(t, "testdata/fields-"+kind+".txt")) {
		path, rest, _ := strings.Cut(strings.TrimSpace(line), "\t")
		what, more, _ := strings.Cut(rest, "\t")
		fields[path] = strings.TrimSpace(plainType.Replace(what) + " " + more)
	}
	return fields
}

// All numbers are 32-bit here, and what the reference calls int/string is one
// thing with what it calls a quantity.
var plainType = strings.NewReplacer("int32", "integer", "int64", "integer")

func fieldsOf(t *testing.T, definition string) (string, map[string]string) {
	t.Helper()
	var d apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	root := d.Spec.Versions[0].Schema.OpenAPIV3Schema
	for _, top := range []string{"spec", "status"} {
		collect(fields, top, root.Properties[top], slices.Contains(root.Required, top))
	}
	return d.Spec.Names.Kind, fields
}

func collect(fields map[string]string, path string, s apiextensions.JSONSchemaProps, required bool) {
	words := []string{typeOf(s)}
	if required {
		words = append(words, "required")
	}
	if s.Default != nil {
		words = append(words, "default="+string(s.Default.Raw))
	}
	if len(s.Enum) > 0 {
		words = append(words, "enum="+enumOf(s))
	}
	fields[path] = strings.Join(words, " ")
	if s.Items != nil {
		path, s = path+"[]", *s.Items.Schema
	}
	for name, property := range s.Properties {
		collect(fields, path+"."+name, property, slices.Contains(s.Required, name))
	}
}

func typeOf(s apiextensions.JSONSchemaProps) string {
	switch {
	case s.XIntOrString:
		return "int/string"
	case s.Items != nil:
		return "[]" + typeOf(*s.Items.Schema)
	case s.AdditionalProperties != nil:
		return "map[" + typeOf(*s.AdditionalProperties.Schema) + "]"
	}
	return s.Type
}

func enumOf(s apiextensions.JSONSchemaProps) string {
	var words []string
	for _, raw := range s.Enum {
		var word string
		if json.Unmarshal(raw.Raw, &word) == nil {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
