package schema_test

import (
	"sync"
	"testing"

	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
)

// toy has one of each: a default, limits, an enum, a transition rule, a rule
// across fields, a list map.
const toy = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: toys, singular: toy, kind: Toy, listKind: ToyList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [name]
            x-kubernetes-validations:
            - {rule: "self.count <= 3 || self.color == 'red'", message: "only red toys come in crowds"}
            properties:
              name: {type: string, x-kubernetes-validations: [{rule: "self == oldSelf", message: "name can't be changed"}]}
              count: {type: integer, default: 1, minimum: 1, maximum: 9}
              color: {type: string, default: red, enum: [red, blue]}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [id]
                items: {type: object, required: [id], properties: {id: {type: string}, size: {type: string, nullable: true}}}
`

func load(t testing.TB) *schema.Schema {
	t.Helper()
	s, err := schema.Load([]byte(toy), "v1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func spec(fields ...any) map[string]any {
	spec := map[string]any{"name": "a", "count": int64(1), "color": "red"}
	for i := 0; i < len(fields); i += 2 {
		spec[fields[i].(string)] = fields[i+1]
	}
	return map[string]any{"apiVersion": "example.com/v1", "kind": "Toy", "metadata": map[string]any{"name": "x"}, "spec": spec}
}

func TestValidate(t *testing.T) {
	cases := []struct {
		name      string
		new, old  map[string]any
		path, msg string // path empty: valid
	}{
		{name: "valid", new: spec()},
		{name: "no spec", new: map[string]any{"metadata": map[string]any{"name": "x"}}, path: "spec", msg: "Required value"},
		{name: "too large", new: spec("count", int64(10)), path: "spec.count",
			msg: "Invalid value: 10: spec.count in body should be less than or equal to 9"},
		{name: "unknown word", new: spec("color", "green"), path: "spec.color",
			msg: `Unsupported value: "green": supported values: "red", "blue"`},
		{name: "wrong type", new: spec("count", "1"), path: "spec.count",
			msg: `Invalid value: "string": spec.count in body must be of type integer: "string"`},
		{name: "rule across fields", new: spec("count", int64(4), "color", "blue"), path: "spec",
			msg: "Invalid value: only red toys come in crowds"},
		{name: "twice in a list map", new: spec("parts", []any{map[string]any{"id": "p"}, map[string]any{"id": "p"}}),
			path: "spec.parts[1]", msg: `Duplicate value: {"id":"p"}`},
		{name: "unchanged", new: spec("count", int64(2)), old: spec()},
		{name: "immutable", new: spec("name", "b"), old: spec(), path: "spec.name", msg: `Invalid value: "b": name can't be changed`},
		{name: "wrong before and unchanged", new: spec("count", int64(10), "color", "blue"), old: spec("count", int64(10)),
			path: "spec", msg: "Invalid value: only red toys come in crowds"},
	}
	s := load(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := fault.From(s.Validate(c.new, c.old))
			if c.path == "" {
				if f != nil {
					t.Fatalf("refused: %v", f)
				}
				return
			}
			if f == nil || f.Class != fault.Invalid || f.Fields[0].Path != c.path || f.Fields[0].Message != c.msg {
				t.Errorf("got %+v, want %s: %s", f, c.path, c.msg)
			}
		})
	}
}

func TestDefault(t *testing.T) {
	m := map[string]any{"spec": map[string]any{"name": "a", "count": nil, "parts": nil}}
	load(t).Default(m)
	got := m["spec"].(map[string]any)
	if got["count"] != int64(1) || got["color"] != "red" {
		t.Errorf("got %v, want the defaults", got)
	}
	if _, there := got["parts"]; there {
		t.Error("a null is still there")
	}
}

func TestSchemaIsSafeForConcurrentUse(t *testing.T) {
	s := load(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				m := spec("count", nil)
				s.Default(m)
				if err := s.Validate(m, spec()); err != nil {
					t.Error(err)
				}
				if err := s.Validate(spec("name", "b"), spec()); err == nil {
					t.Error("an immutable field was changed")
				}
			}
		})
	}
	all.Wait()
}

func TestLoadRefuses(t *testing.T) {
	for name, text := range map[string]string{"nonsense": "]", "an unknown field": "spce: {}", "no such version": toy} {
		if _, err := schema.Load([]byte(text), "v2"); err == nil {
			t.Errorf("%s was loaded", name)
		}
	}
}

func TestFindLoadsTheKindsOwn(t *testing.T) {
	k := kind.Must(&diskv1.VirtualDisk{})
	s, err := schema.Find(crd.FS, k)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Validate(map[string]any{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{}}, nil)
	if f := fault.From(err); f == nil || f.Fields[0].Path != "spec" {
		t.Errorf("got %v, want spec refused: a blank disk needs a size", err)
	}
}

func BenchmarkValidate(b *testing.B) {
	s := load(b)
	for b.Loop() {
		m := spec("count", nil)
		s.Default(m)
		if err := s.Validate(m, nil); err != nil {
			b.Fatal(err)
		}
	}
}
