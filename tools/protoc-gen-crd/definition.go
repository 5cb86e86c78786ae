package main

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Fields of a kind's message that mean what they mean in any Kubernetes object.
const (
	apiVersionField protoreflect.Name = "api_version"
	kindField       protoreflect.Name = "kind"
	metadataField   protoreflect.Name = "metadata"
	specField       protoreflect.Name = "spec"
	statusField     protoreflect.Name = "status"
)

var scopes = map[string]apiextensions.ResourceScope{
	"SCOPE_NAMESPACED": apiextensions.NamespaceScoped,
	"SCOPE_CLUSTER":    apiextensions.ClusterScoped,
}

func (w *walker) definition(m protoreflect.MessageDescriptor, res resource) *apiextensions.CustomResourceDefinition {
	scope, known := scopes[res.Scope]
	if !known {
		w.problems.add(m, "option (%s): scope must say namespaced or cluster", resourceOption)
	}
	kind := string(m.Name())
	root := w.root(m)
	version := apiextensions.CustomResourceDefinitionVersion{
		Name:                     res.Version,
		Served:                   true,
		Storage:                  true,
		Schema:                   &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &root},
		AdditionalPrinterColumns: w.columns(m, res.Columns),
	}
	if m.Fields().ByName(statusField) != nil {
		version.Subresources = &apiextensions.CustomResourceSubresources{
			Status: &apiextensions.CustomResourceSubresourceStatus{},
		}
	}
	return &apiextensions.CustomResourceDefinition{
		TypeMeta:   v1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: v1.ObjectMeta{Name: res.Plural + "." + res.Group},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: res.Group,
			Names: apiextensions.CustomResourceDefinitionNames{
				Plural:     res.Plural,
				Singular:   res.Singular,
				ShortNames: res.ShortNames,
				Kind:       kind,
				ListKind:   kind + "List",
				Categories: res.Categories,
			},
			Scope:    scope,
			Versions: []apiextensions.CustomResourceDefinitionVersion{version},
		},
	}
}

// root is the schema of a whole object. Kubernetes itself describes
// apiVersion, kind and metadata; only spec and status are ours.
func (w *walker) root(m protoreflect.MessageDescriptor) apiextensions.JSONSchemaProps {
	root := apiextensions.JSONSchemaProps{
		Type:        "object",
		Description: description(m),
		Properties:  map[string]apiextensions.JSONSchemaProps{},
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch f.Name() {
		case apiVersionField, kindField:
			root.Properties[f.JSONName()] = apiextensions.JSONSchemaProps{
				Type: "string", Description: standard[f.Name()],
			}
		case metadataField:
			root.Properties[f.JSONName()] = apiextensions.JSONSchemaProps{Type: "object"}
		case specField, statusField:
			w.property(&root, f)
		default:
			w.problems.add(f, "a kind has api_version, kind, metadata, spec and status, nothing else")
		}
	}
	w.rules(&root, m)
	return root
}

// What `kubectl explain` says of the two fields that every object starts with.
var standard = map[protoreflect.Name]string{
	apiVersionField: "Version of the schema of this object: <group>/<version>.",
	kindField:       "The kind of this object, in CamelCase. It can't be changed.",
}

func (w *walker) columns(m protoreflect.MessageDescriptor, columns []column) []apiextensions.CustomResourceColumnDefinition {
	var definitions []apiextensions.CustomResourceColumnDefinition
	for _, c := range columns {
		if field, ok := resolves(m, c.JSONPath); !ok {
			w.problems.add(m, "column %s: %s: there is no field %s", c.Name, c.JSONPath, field)
		}
		definition := apiextensions.CustomResourceColumnDefinition{
			Name: c.Name, Type: c.Type, JSONPath: c.JSONPath,
		}
		if c.Wide {
			definition.Priority = 1
		}
		definitions = append(definitions, definition)
	}
	return definitions
}

// resolves tells whether a column's path leads to a field of m, and if not at
// which field it ends: kubectl shows nothing at all for a path with a slip.
func resolves(m protoreflect.MessageDescriptor, path string) (string, bool) {
	for _, segment := range segments(path) {
		if m == nil {
			return segment, false
		}
		f := m.Fields().ByJSONName(segment)
		if f == nil {
			return segment, false
		}
		if f.Name() == metadataField || f.IsMap() {
			return "", true // keys are free from here on
		}
		m = f.Message()
	}
	return "", true
}

// segments splits .status.conditions[?(@.type=='InUse')].status into its
// fields: status, conditions, status.
func segments(path string) []string {
	var plain strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case depth == 0:
			plain.WriteRune(r)
		}
	}
	return strings.Split(strings.Trim(plain.String(), "."), ".")
}
