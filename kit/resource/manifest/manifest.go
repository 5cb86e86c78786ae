// Package manifest is the codec between an object's message and its JSON form,
// the manifest.
//
// A manifest is what encoding/json makes of it: map[string]any, []any, string,
// bool, int64 and float64, never json.Number. The package goes by descriptors and
// must not know any kind by name.
package manifest

import "google.golang.org/protobuf/proto"

// Encode returns the manifest of m.
func Encode(m proto.Message) (map[string]any, error) { return nil, nil }

// Decode reads a manifest into m, which is reset first. What manifests write
// otherwise than protobuf's JSON is put right: numbers where the message has a
// string, empty enums, nulls. An unknown field or a wrong type is a fault of class
// Invalid that names its JSON path. manifest is not changed.
func Decode(manifest map[string]any, m proto.Message) error { return nil }

// DecodeJSON is Decode of JSON text.
func DecodeJSON(text []byte, m proto.Message) error { return nil }

// DropUnknown returns a copy of manifest without the fields that m's descriptor
// doesn't know. It is for a door that reads what another program stored under a
// newer schema; nobody else may ignore what a user wrote.
func DropUnknown(manifest map[string]any, m proto.Message) map[string]any { return nil }

// Digest is a short hash (16 hex characters) of what a user can write: spec,
// labels, and annotations but those with one of the prefixes. Equal digests mean
// equal wishes, whatever status and versions say.
func Digest(m proto.Message, ignoredAnnotationPrefixes ...string) (string, error) { return "", nil }
