package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Names of the options, as proto/orlop/schema/v1/schema.proto and
// buf/validate/validate.proto declare them.
const (
	resourceOption protoreflect.FullName = "orlop.schema.v1.resource"
	ruleOption     protoreflect.FullName = "orlop.schema.v1.rule"
	fieldOption    protoreflect.FullName = "orlop.schema.v1.field"
	limitOption    protoreflect.FullName = "buf.validate.field"
)

// The structs below are the JSON form of those options. A key that no struct
// knows is an error: an option that is written but not translated would be a
// rule that nobody enforces.

type resource struct {
	Group      string
	Version    string
	Plural     string
	Singular   string
	ShortNames []string
	Categories []string
	Scope      string
	Columns    []column
	// Gates are for those who explain objects: a CRD has no place for them.
	Gates []string
}

type column struct {
	Name     string
	Type     string
	JSONPath string `json:"jsonPath"`
	Wide     bool
}

type rule struct {
	ID      string `json:"id"`
	Rule    string
	Message string
}

type fieldOptions struct {
	Default         string
	Immutable       bool
	Format          string
	ListMapKeys     []string
	Unsupported     string
	PreserveUnknown bool
	Nullable        bool
	// Defaulted says something to doors only: a definition has no words for it.
	Defaulted bool
}

// options reads the options of descriptors by the extensions that the request
// itself declares.
type options struct {
	types *dynamicpb.Types
}

// read decodes the named option of d into out (a pointer to one of the structs
// above, or to a slice of them for a repeated option). It returns false if d
// does not carry the option.
func (o options) read(d protoreflect.Descriptor, name protoreflect.FullName, out any) (bool, error) {
	text, err := o.text(d, name)
	if text == nil || err != nil {
		return false, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(out); err != nil {
		return false, fmt.Errorf("option (%s): no translation into a CRD is known: %w", name, err)
	}
	return true, nil
}

// text returns the named option as JSON, nil if d does not carry it.
func (o options) text(d protoreflect.Descriptor, name protoreflect.FullName) ([]byte, error) {
	plain := d.Options()
	if plain == nil || !plain.ProtoReflect().IsValid() {
		return nil, nil
	}
	// The extension is not linked in, so it sits in the unknown fields. A
	// second decoding, which knows the extension, brings it out.
	raw, err := proto.Marshal(plain)
	if err != nil {
		return nil, err
	}
	known := plain.ProtoReflect().New()
	if err := (proto.UnmarshalOptions{Resolver: o.types}).Unmarshal(raw, known.Interface()); err != nil {
		return nil, err
	}
	var text []byte
	known.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.FullName() == name {
			text, err = o.marshal(f, v)
		}
		return true
	})
	return text, err
}

func (o options) marshal(f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	encoder := protojson.MarshalOptions{Resolver: o.types}
	if !f.IsList() {
		return encoder.Marshal(v.Message().Interface())
	}
	items := make([]json.RawMessage, 0, v.List().Len())
	for i := range v.List().Len() {
		item, err := encoder.Marshal(v.List().Get(i).Message().Interface())
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return json.Marshal(items)
}
