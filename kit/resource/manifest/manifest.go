// Package manifest is the codec between an object's message and its JSON form,
// the manifest.
//
// A manifest is what Kubernetes' JSON decoder makes of it: map[string]any, []any,
// string, bool, int64 and float64, never json.Number. The package goes by
// descriptors and must not know any kind by name.
package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
)

// Encode returns the manifest of m.
func Encode(m proto.Message) (map[string]any, error) {
	// protojson's text is made unstable on purpose; only the value behind it counts.
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return parse(text)
}

// Decode reads a manifest into m, which is reset first. What manifests write
// otherwise than protobuf's JSON is put right: numbers where the message has a
// quantity or an int-or-string, empty enums, nulls. Unknown fields, unknown words
// and wrong types are a fault of class Invalid that names each by its JSON path.
// manifest is not changed.
func Decode(manifest map[string]any, m proto.Message) error {
	c := cleaner{}
	clean := c.message("", manifest, m.ProtoReflect().Descriptor())
	if len(c.refused) > 0 {
		return c.fault()
	}
	text, err := json.Marshal(clean)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, fault.ReasonInvalid, "the manifest is no JSON")
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		return fault.Wrap(err, fault.Invalid, fault.ReasonInvalid, "the manifest can't be read: %s", protoDetail(err))
	}
	return nil
}

// DecodeJSON is Decode of JSON text.
func DecodeJSON(text []byte, m proto.Message) error {
	manifest, err := parse(text)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, fault.ReasonInvalid, "the manifest can't be read: %s", err)
	}
	return Decode(manifest, m)
}

// parse reads one JSON object and nothing after it.
func parse(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("more than one JSON value")
	}
	return numbers(v).(map[string]any), nil
}

// numbers turns each json.Number in v, in place, into int64 if it is whole and
// fits, else into float64.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, element := range v {
			v[key] = numbers(element)
		}
	case []any:
		for i, element := range v {
			v[i] = numbers(element)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String() // beyond float64: no field can hold it, whatever it is
		}
		return f
	}
	return v
}

// protoDetail strips the prefix that protobuf varies on purpose.
func protoDetail(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(text, "proto: ")
}
