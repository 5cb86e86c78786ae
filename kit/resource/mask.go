package resource

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// written are the fields of metadata that callers write.
var written = []protoreflect.Name{"labels", "annotations", "owner_references", "finalizers"}

// mask is what an update takes from a request.
type mask struct {
	kind  *kind.Kind
	paths []maskPath // nil takes all that callers write
}

// maskPath is one path: fields from the object down, and the key of a map where
// the last field is one and the path goes into it.
type maskPath struct {
	fields []protoreflect.FieldDescriptor
	mapKey string
	hasKey bool
}

// parseMask reads the paths of an update_mask, written with names of the manifest
// or of the proto. Empty, or `*`, is everything that callers write. Keys of maps
// are quoted by backticks where they hold dots. What identifies an object, and
// what the server gives, may be named and is left as it is; status is refused:
// asking for it is a mistake.
func parseMask(k *kind.Kind, m *fieldmaskpb.FieldMask) (mask, error) {
	parsed := mask{kind: k}
	for _, text := range m.GetPaths() {
		if text == "*" {
			return mask{kind: k}, nil
		}
		path, err := parsePath(k, text)
		if err != nil {
			return mask{}, err
		}
		if expanded := path.writable(k); expanded != nil {
			parsed.paths = append(parsed.paths, expanded...)
		}
	}
	if len(m.GetPaths()) > 0 && parsed.paths == nil {
		parsed.paths = []maskPath{}
	}
	return parsed, nil
}

func parsePath(k *kind.Kind, text string) (maskPath, error) {
	var path maskPath
	d := k.Descriptor
	segments := splitPath(text)
	for i, segment := range segments {
		if d == nil {
			return path, unknownPath(text)
		}
		f := fieldNamed(d, segment)
		if f == nil {
			return path, unknownPath(text)
		}
		path.fields = append(path.fields, f)
		if f.IsMap() && i == len(segments)-2 {
			path.mapKey, path.hasKey = segments[i+1], true
			break
		}
		if d = nil; f.Message() != nil && !f.IsList() && !f.IsMap() {
			d = f.Message()
		}
	}
	if k.Status != nil && path.fields[0] == k.Status {
		return path, fault.Refuse("update_mask", "FieldValueForbidden", "%q: status is the service's to write", text)
	}
	return path, nil
}

func unknownPath(text string) error {
	return fault.Refuse("update_mask", "FieldValueInvalid", "%q is no field that can be updated by itself", text)
}

// writable returns what of a path callers may write: metadata stands for its
// written fields, and identity for nothing.
func (p maskPath) writable(k *kind.Kind) []maskPath {
	switch {
	case p.fields[0] == k.Spec:
		return []maskPath{p}
	case p.fields[0] != k.Metadata:
		return nil
	case len(p.fields) == 1:
		return metadataPaths(k)
	case slices.Contains(written, p.fields[1].Name()):
		return []maskPath{p}
	}
	return nil
}

func metadataPaths(k *kind.Kind) []maskPath {
	paths := make([]maskPath, len(written))
	for i, name := range written {
		paths[i].fields = []protoreflect.FieldDescriptor{k.Metadata, k.Metadata.Message().Fields().ByName(name)}
	}
	return paths
}

// apply makes what the mask names in to equal to from.
func (m mask) apply(to, from Object) {
	paths := m.paths
	if paths == nil {
		paths = metadataPaths(m.kind)
		if m.kind.Spec != nil {
			paths = append(paths, maskPath{fields: []protoreflect.FieldDescriptor{m.kind.Spec}})
		}
	}
	from = proto.Clone(from).(Object) // what is taken must not be shared
	for _, p := range paths {
		p.apply(to.ProtoReflect(), from.ProtoReflect())
	}
}

func (p maskPath) apply(to, from protoreflect.Message) {
	last := len(p.fields) - 1
	for _, f := range p.fields[:last] {
		if !from.Has(f) && !to.Has(f) {
			return // absent on both sides: nothing to take, nothing to clear
		}
		to, from = to.Mutable(f).Message(), from.Get(f).Message()
	}
	f := p.fields[last]
	switch {
	case p.hasKey:
		p.applyKey(to, from, f)
	case from.Has(f):
		to.Set(f, from.Get(f))
	default:
		to.Clear(f)
	}
}

func (p maskPath) applyKey(to, from protoreflect.Message, f protoreflect.FieldDescriptor) {
	key := protoreflect.ValueOfString(p.mapKey).MapKey()
	switch {
	case from.Get(f).Map().Has(key):
		to.Mutable(f).Map().Set(key, from.Get(f).Map().Get(key))
	case to.Has(f):
		to.Mutable(f).Map().Clear(key)
	}
}

// splitPath splits at dots outside of backticks.
func splitPath(text string) []string {
	var segments []string
	quoted := false
	start := 0
	for i, r := range text {
		switch {
		case r == '`':
			quoted = !quoted
		case r == '.' && !quoted:
			segments, start = append(segments, text[start:i]), i+1
		}
	}
	segments = append(segments, text[start:])
	for i, s := range segments {
		segments[i] = strings.Trim(s, "`")
	}
	return segments
}

// fieldNamed finds a field by its proto name, its name in manifests, or what the
// JSON form of a FieldMask makes of that: it turns every capital into _ and a
// small letter.
func fieldNamed(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := d.Fields().ByName(protoreflect.Name(name)); f != nil {
		return f
	}
	if f := d.Fields().ByJSONName(name); f != nil {
		return f
	}
	return d.Fields().ByJSONName(camel(name))
}

func camel(snake string) string {
	parts := strings.Split(snake, "_")
	for i, p := range parts[1:] {
		if p != "" {
			parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}
