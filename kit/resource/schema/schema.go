// Package schema judges manifests as a Kubernetes API server judges them: by the
// CRD's structural schema, its defaults, its CEL rules and its transition rules,
// with Kubernetes' own library, and so in the same words.
//
// It works on the JSON form of objects. It must not know any kind by name.
package schema

import (
	"io/fs"

	"orlop.dev/kit/resource/kind"
)

// Schema is the schema of one kind. It is compiled once and safe for concurrent use.
type Schema struct{}

// Load compiles the schema of one version of a CRD, given as YAML.
func Load(crd []byte, version string) (*Schema, error) { return nil, nil }

// Find loads the schema of k from the CRDs in files (orlop.dev/gen/crd.FS).
func Find(files fs.FS, k *kind.Kind) (*Schema, error) { return nil, nil }

// Default fills the defaults into a manifest, in place.
func (s *Schema) Default(manifest map[string]any) {}

// Validate returns a fault of class Invalid that names each value that breaks a
// rule. old is the state that is replaced, nil at a creation. Neither is changed.
func (s *Schema) Validate(manifest, old map[string]any) error { return nil }
