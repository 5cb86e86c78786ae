package main

import (
	"fmt"
	"strings"
	"testing"
)

// kindWith is a kind whose spec has the given fields, and the declarations
// that they need.
func kindWith(fields, declarations string) string {
	return fmt.Sprintf(`syntax = "proto3";
package broken.v1;
import "buf/validate/validate.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "orlop/meta/v1/meta.proto";
import "orlop/schema/v1/schema.proto";
message Broken {
  option (orlop.schema.v1.resource) = {
    group: "toys.example.test" version: "v1" plural: "brokens" singular: "broken" scope: SCOPE_NAMESPACED
    columns: [{name: "Size" type: "string" json_path: ".spec.size"}]
  };
  string api_version = 1;
  string kind = 2;
  orlop.meta.v1.ObjectMeta metadata = 3;
  BrokenSpec spec = 4;
}
message BrokenSpec {
  %s
}
message Words { enum Value { Unspecified = 0; A = 1; } }
%s
`, fields, declarations)
}

func TestRefusesWhatDoesNotSurvive(t *testing.T) {
	const size = "string size = 9;"
	for name, test := range map[string]struct {
		fields, declarations string
		field, reason        string
	}{
		"64-bit integer":      {fields: "int64 size = 1;", field: "size", reason: "use an int32"},
		"unsigned integer":    {fields: "uint32 size = 1;", field: "size", reason: "use an int32"},
		"float":               {fields: "double size = 1;", field: "size", reason: "rounded"},
		"64-bit list item":    {fields: "repeated int64 size = 1;", field: "size", reason: "use an int32"},
		"64-bit map value":    {fields: "map<string, int64> size = 1;", field: "size", reason: "use an int32"},
		"map key":             {fields: "map<int32, string> size = 1;", field: "size", reason: "keys of a map"},
		"oneof":               {fields: "oneof x { string size = 1; }", field: "size", reason: "oneof"},
		"recursion":           {fields: size + "Node node = 1;", declarations: "message Node { repeated Node children = 1; }", field: "node", reason: "contains itself"},
		"duration":            {fields: "google.protobuf.Duration size = 1;", field: "size", reason: "use a string"},
		"any":                 {fields: "google.protobuf.Any size = 1;", field: "size", reason: "Struct"},
		"wrapper":             {fields: "google.protobuf.Int32Value size = 1;", field: "size", reason: "optional"},
		"enum at top level":   {fields: "Loose size = 1;", declarations: "enum Loose { Unspecified = 0; }", field: "size", reason: "a message of its own"},
		"enum beside fields":  {fields: "Mixed.Value size = 1;", declarations: "message Mixed { enum Value { Unspecified = 0; } string s = 1; }", field: "size", reason: "a message of its own"},
		"enum zero":           {fields: "Zero.Value size = 1;", declarations: "message Zero { enum Value { Ready = 0; } }", field: "size", reason: "Unspecified"},
		"another JSON name":   {fields: size + `string weight = 1 [json_name = "mass"];`, field: "weight", reason: "JSON name"},
		"bool with default":   {fields: `bool size = 1 [(orlop.schema.v1.field).default = "true"];`, field: "size", reason: "optional"},
		"int with default":    {fields: `int32 size = 1 [(orlop.schema.v1.field).default = "1"];`, field: "size", reason: "optional"},
		"list with default":   {fields: `repeated string size = 1 [(orlop.schema.v1.field).default = "[]"];`, field: "size", reason: "default"},
		"required bool":       {fields: "bool size = 1 [(buf.validate.field).required = true];", field: "size", reason: "optional"},
		"required int":        {fields: "int32 size = 1 [(buf.validate.field).required = true];", field: "size", reason: "optional"},
		"length of unset":     {fields: "string size = 1 [(buf.validate.field).string.min_len = 1];", field: "size", reason: "IGNORE_IF_ZERO_VALUE"},
		"pattern of unset":    {fields: `string size = 1 [(buf.validate.field).string.pattern = "^a+$"];`, field: "size", reason: "IGNORE_IF_ZERO_VALUE"},
		"minimum of unset":    {fields: "int32 size = 1 [(buf.validate.field).int32.gte = 1];", field: "size", reason: "IGNORE_IF_ZERO_VALUE"},
		"unknown enum word":   {fields: `Words.Value size = 1 [(orlop.schema.v1.field).default = '"B"'];`, field: "size", reason: "default"},
		"unset as default":    {fields: `Words.Value size = 1 [(orlop.schema.v1.field).default = '"Unspecified"'];`, field: "size", reason: "unset"},
		"default of type":     {fields: `optional int32 size = 1 [(orlop.schema.v1.field).default = '"x"'];`, field: "size", reason: "default"},
		"untranslated limit":  {fields: "string size = 1 [(buf.validate.field).string.tuuid = true];", field: "size", reason: "no translation"},
		"rule of the other":   {fields: `string size = 1 [(buf.validate.field).cel = {id: "x" expression: "this != ''"}];`, field: "size", reason: "no translation"},
		"format of a number":  {fields: "int32 size = 1 [(orlop.schema.v1.field).format = FORMAT_QUANTITY];", field: "size", reason: "format"},
		"keys of no list":     {fields: `string size = 1 [(orlop.schema.v1.field).list_map_keys = "x"];`, field: "size", reason: "map keys"},
		"required, forbidden": {fields: `string size = 1 [(buf.validate.field).required = true, (orlop.schema.v1.field).unsupported = "x"];`, field: "size", reason: "unsupported"},
		"free form, typed":    {fields: "string size = 1 [(orlop.schema.v1.field).preserve_unknown = true];", field: "size", reason: "Struct"},
	} {
		t.Run(name, func(t *testing.T) {
			got := refusal(t, kindWith(test.fields, test.declarations))
			if !strings.Contains(got, "broken.v1.BrokenSpec."+test.field+": ") || !strings.Contains(got, test.reason) {
				t.Errorf("got %q, want it to name %s and say %q", got, test.field, test.reason)
			}
			if !strings.HasPrefix(got, "broken.proto:") {
				t.Errorf("got %q, want it to start with the place", got)
			}
		})
	}
}

func TestRefusesBadKinds(t *testing.T) {
	sound := kindWith("string size = 1;", "")
	for name, test := range map[string]struct{ old, new, reason string }{
		"no scope":             {"scope: SCOPE_NAMESPACED", "", "scope"},
		"column without field": {".spec.size", ".spec.sice", "no field sice"},
		"further field":        {"BrokenSpec spec = 4;", "BrokenSpec spec = 4; string extra = 6;", "nothing else"},
		"rule without message": {"message BrokenSpec {", `message BrokenSpec { option (orlop.schema.v1.rule) = {id: "x" rule: "true"};`, "needs an id"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refusal(t, strings.Replace(sound, test.old, test.new, 1)); !strings.Contains(got, test.reason) {
				t.Errorf("got %q, want it to say %q", got, test.reason)
			}
		})
	}
}

// What the API server would refuse is refused here already, by its own code.
func TestRefusesWhatTheAPIServerRefuses(t *testing.T) {
	rule := func(text string) string {
		return fmt.Sprintf(`option (orlop.schema.v1.rule) = {id: "x" rule: %q message: "m"}; string size = 1;`, text)
	}
	for name, test := range map[string]struct{ fields, declarations, reason string }{
		"rule that does not parse": {fields: rule("self.size ="), reason: "compilation failed"},
		"rule with a wrong type":   {fields: rule("self.size == 1"), reason: "no matching overload"},
		"rule on no field":         {fields: rule("self.sice == 'a'"), reason: "undefined field"},
		"rule that costs too much": {
			fields: `option (orlop.schema.v1.rule) = {id: "x" rule: "self.a.all(x, self.a.all(y, self.a.exists(z, x + y == z)))" message: "m"};
				string size = 1; repeated string a = 2;`,
			reason: "cost",
		},
		"list key that may be missing": {
			fields:       `string size = 1; repeated Item a = 2 [(orlop.schema.v1.field).list_map_keys = "name"];`,
			declarations: "message Item { string name = 1; }",
			reason:       "required",
		},
		"default outside its limits": {
			fields: `optional int32 size = 1 [(orlop.schema.v1.field).default = "5", (buf.validate.field).int32.lte = 4];`,
			reason: "default",
		},
		"immutable without a list key": {
			fields:       `string size = 1; repeated Item a = 2;`,
			declarations: "message Item { string name = 1 [(orlop.schema.v1.field).immutable = true]; }",
			reason:       "oldSelf",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refusal(t, kindWith(test.fields, test.declarations)); !strings.Contains(got, test.reason) {
				t.Errorf("got %q, want it to say %q", got, test.reason)
			}
		})
	}
}

// refusal generates from one file and returns why that failed.
func refusal(t *testing.T, source string) string {
	t.Helper()
	const name = "broken.proto"
	_, err := generate(compile(t, map[string]string{name: source}, name), []string{name})
	if err == nil {
		t.Fatal("it was not refused")
	}
	return err.Error()
}

func TestSoundKindIsNotRefused(t *testing.T) {
	const name = "broken.proto"
	source := kindWith("string size = 1;", "")
	if _, err := generate(compile(t, map[string]string{name: source}, name), []string{name}); err != nil {
		t.Error(err)
	}
}
