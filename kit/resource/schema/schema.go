// Package schema judges manifests as a Kubernetes API server judges them: by the
// CRD's structural schema, its defaults, its CEL rules and its transition rules,
// with Kubernetes' own library, and so in the same words.
//
// It works on the JSON form of objects. It must not know any kind by name.
package schema

import (
	"fmt"
	"io/fs"
	"path"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"orlop.dev/kit/resource/kind"
)

// Schema is the schema of one kind. It is compiled once and safe for concurrent use.
type Schema struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator // nil where the schema has no rules
}

// Load compiles the schema of one version of a CRD, given as YAML. It fails if
// the CRD is not valid or has no such version.
func Load(crd []byte, version string) (*Schema, error) {
	definition, err := parse(crd)
	if err != nil {
		return nil, err
	}
	for i := range definition.Spec.Versions {
		if v := &definition.Spec.Versions[i]; v.Name == version {
			s, err := compile(v.Schema)
			if err != nil {
				return nil, fmt.Errorf("schema of %s %s: %w", definition.Name, version, err)
			}
			return s, nil
		}
	}
	return nil, fmt.Errorf("CRD %s has no version %s", definition.Name, version)
}

// Find loads the schema of k from the CRDs in files (orlop.dev/gen/crd.FS).
func Find(files fs.FS, k *kind.Kind) (*Schema, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		definition, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
		if definition.Spec.Group == k.Group && definition.Spec.Names.Kind == k.Name {
			return Load(text, k.Version)
		}
	}
	return nil, fmt.Errorf("no CRD of %s", k)
}

// Default fills the defaults into a manifest, in place, and drops the nulls that
// an API server drops.
func (s *Schema) Default(manifest map[string]any) {
	defaulting.PruneNonNullableNullsWithoutDefaults(manifest, s.structural)
	defaulting.Default(manifest, s.structural)
}

func parse(crd []byte) (*apiextensionsv1.CustomResourceDefinition, error) {
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(crd, definition); err != nil {
		return nil, fmt.Errorf("CRD: %w", err)
	}
	return definition, nil
}

func compile(v1 *apiextensionsv1.CustomResourceValidation) (*Schema, error) {
	if v1 == nil || v1.OpenAPIV3Schema == nil {
		return nil, fmt.Errorf("no openAPIV3Schema")
	}
	internal := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v1, internal, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	if err := defaulting.PruneDefaults(structural); err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	return &Schema{
		structural: structural,
		validator:  validator,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}, nil
}
