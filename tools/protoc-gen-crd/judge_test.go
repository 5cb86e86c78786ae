package main

import (
	"math"
	"strings"
	"testing"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// judge does to objects what the API server does with a definition: sets
// defaults, checks the schema, evaluates the rules.
type judge struct {
	structural *structural.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

func newJudge(t *testing.T, definition string) judge {
	t.Helper()
	var d apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	var props internal.JSONSchemaProps
	root := d.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensions.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(root, &props, nil); err != nil {
		t.Fatal(err)
	}
	s, err := structural.NewStructural(&props)
	if err != nil {
		t.Fatal(err)
	}
	schemaValidator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		t.Fatal(err)
	}
	return judge{s, schemaValidator, cel.NewValidator(s, true, apiservercel.PerCallLimit)}
}

// read parses a manifest and sets its defaults.
func (j judge) read(t *testing.T, manifest string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
		t.Fatal(err)
	}
	for key, value := range wholeNumbers(object).(map[string]any) {
		object[key] = value
	}
	defaulting.Default(object, j.structural)
	return object
}

// wholeNumbers turns 1.0 into 1, as the API server's decoder does.
func wholeNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = wholeNumbers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = wholeNumbers(v[i])
		}
	case float64:
		if v == math.Trunc(v) {
			return int64(v)
		}
	}
	return v
}

// refusals lists what is wrong with object, given what it was before (nil for
// a new one).
func (j judge) refusals(t *testing.T, object, old map[string]any) field.ErrorList {
	t.Helper()
	wrong := validation.ValidateCustomResource(nil, object, j.schema)
	var before any
	if old != nil {
		before = old
	}
	byRule, _ := j.rules.Validate(t.Context(), nil, j.structural, object, before, math.MaxInt64)
	return append(wrong, byRule...)
}

// toy is a legal manifest of the fixture, with more lines in its spec.
func toy(lines ...string) string {
	return "metadata: {name: t}\nspec:\n  name: car\n  engine: {fuel: air}\n  " + strings.Join(lines, "\n  ")
}

func TestDefinitionJudgesObjects(t *testing.T) {
	j := newJudge(t, definitions(t, toyProto)[toyFile])
	for name, test := range map[string]struct {
		manifest, old string
		field         string // where the one refusal is; empty for none
	}{
		"sound":                      {manifest: toy()},
		"number in range":            {manifest: toy("wheels: 2")},
		"number below its range":     {manifest: toy("wheels: 1"), field: "spec.wheels"},
		"number above 32 bits":       {manifest: toy("seconds: 5000000000"), field: "spec.seconds"},
		"word of an enum":            {manifest: toy("mode: Standing")},
		"no word of an enum":         {manifest: toy("mode: Flying"), field: "spec.mode"},
		"the word for unset":         {manifest: toy("mode: Unspecified"), field: "spec.mode"},
		"pattern":                    {manifest: strings.Replace(toy(), "car", "CAR", 1), field: "spec.name"},
		"quantity as a string":       {manifest: toy("weight: 10Gi")},
		"quantity as a number":       {manifest: toy("weight: 100")},
		"no quantity":                {manifest: toy("weight: heavy"), field: "spec.weight"},
		"no quantity in a map":       {manifest: toy("sizes: {a: 1Gi, b: big}"), field: "spec.sizes.b"},
		"percentage":                 {manifest: toy("share: 5%")},
		"characters within bytes":    {manifest: toy("script: abcdefgh")},
		"bytes beyond characters":    {manifest: toy("script: äöüßé"), field: "spec.script"},
		"rule between fields":        {manifest: toy("mode: Rolling"), field: "spec"},
		"rule between fields holds":  {manifest: toy("mode: Rolling", "wheels: 4")},
		"unsupported":                {manifest: toy("remote: x"), field: "spec.remote"},
		"unsupported, reserved word": {manifest: toy("namespace: x"), field: "spec.namespace"},
		"item out of range":          {manifest: toy("steps: [1, 101]"), field: "spec.steps[1]"},
		"rule on metadata":           {manifest: strings.Replace(toy(), "name: t", "name: a-name-that-is-too-long", 1), field: "<nil>"},
		"status without a required field": {
			manifest: toy() + "\nstatus: {phase: Ready}", field: "status.broken",
		},
		"status with a false required field": {manifest: toy() + "\nstatus: {broken: false}"},
		"free form":                          {manifest: toy() + "\nstatus: {broken: true, details: {a: {b: [1]}}, anything: 5}"},
		"null for unset":                     {manifest: toy() + "\nstatus: {broken: true, lastPlayed: null}"},
		"immutable, unchanged":               {manifest: toy("maker: a", "wheels: 3"), old: toy("maker: a")},
		"immutable, changed":                 {manifest: toy("maker: b"), old: toy("maker: a"), field: "spec.maker"},
		"immutable, added":                   {manifest: toy("maker: a"), old: toy(), field: "spec.maker"},
		"immutable, removed":                 {manifest: toy(), old: toy("maker: a"), field: "spec.maker"},
		"immutable and required, changed": {
			manifest: strings.Replace(toy(), "air", "oil", 1), old: toy(), field: "spec.engine",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var old map[string]any
			if test.old != "" {
				old = j.read(t, test.old)
			}
			refusals := j.refusals(t, j.read(t, test.manifest), old)
			switch {
			case test.field == "" && len(refusals) > 0:
				t.Errorf("refused: %v", refusals)
			case test.field != "" && (len(refusals) != 1 || refusals[0].Field != test.field):
				t.Errorf("got %v, want one refusal at %s", refusals, test.field)
			}
		})
	}
}

func TestDefinitionSetsDefaults(t *testing.T) {
	j := newJudge(t, definitions(t, toyProto)[toyFile])
	spec := j.read(t, toy("loud: false"))["spec"].(map[string]any)
	for name, want := range map[string]any{"mode": "Standing", "seconds": int64(60), "loud": false} {
		if spec[name] != want {
			t.Errorf("%s: got %v, want %v", name, spec[name], want)
		}
	}
	if limits := spec["limits"].(map[string]any); limits["age"] != int64(3) {
		t.Errorf("limits: got %v", limits)
	}
}
