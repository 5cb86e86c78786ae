package main

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// setDefault writes a field's default into its schema, if the field can hold it.
func (w *walker) setDefault(s *schema, f protoreflect.FieldDescriptor, o fieldOptions) {
	if o.Default == "" {
		return
	}
	if f.IsList() || f.IsMap() {
		w.problems.add(f, "a list or a map can't have a default: empty can't be told from unset")
		return
	}
	if err := holds(f, o.Default); err != nil {
		w.problems.add(f, "default %s: %v", o.Default, err)
		return
	}
	s.Default = &apiextensions.JSON{Raw: []byte(o.Default)}
}

// holds tells whether the JSON text is a legal value of f, by decoding it as
// the services will.
func holds(f protoreflect.FieldDescriptor, text string) error {
	document := fmt.Sprintf("{%q:%s}", f.JSONName(), text)
	m := dynamicpb.NewMessage(f.ContainingMessage())
	if err := protojson.Unmarshal([]byte(document), m); err != nil {
		return err
	}
	if number := m.Get(f); f.Enum() != nil && number.Enum() == 0 {
		return fmt.Errorf("means unset")
	}
	return nil
}

func jsonString(s string) apiextensions.JSON {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string is always legal JSON
	}
	return apiextensions.JSON{Raw: raw}
}
