// Package kind reads from descriptors what there is to know about a kind: its
// names, its scope, its message and the service that serves it.
//
// It looks at what is linked into the binary. It must not know any kind by name,
// nor how objects are stored or sent.
package kind

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	schemav1 "orlop.dev/gen/orlop/schema/v1"
)

// ErrNotKind is the error of a message that doesn't carry the resource option.
var ErrNotKind = errors.New("not a kind")

// Kind describes one kind. It is not changed after it was made.
type Kind struct {
	Group   string // virtualization.deckhouse.io
	Version string // v1alpha2
	Name    string // VirtualDisk
	// Plural and Singular are lower case, as in URLs: virtualdisks, virtualdisk.
	Plural     string
	Singular   string
	ShortNames []string
	Namespaced bool
	// Gates are the conditions that hold once an object is as it is meant to be.
	Gates []string

	Descriptor protoreflect.MessageDescriptor
	Type       protoreflect.MessageType
	// Metadata, Spec and Status are the fields of Descriptor. A kind may have no
	// Spec or no Status: these are nil then.
	Metadata, Spec, Status protoreflect.FieldDescriptor

	// Service is the full name of the service that serves the kind, empty where
	// none does: orlop.disk.v1.VirtualDiskService.
	Service protoreflect.FullName
	Methods Methods
}

// Defaulted are the paths in the spec, as manifests have them, of the fields that
// the service fills in where they are left out: cpu.coreFraction.
func (k *Kind) Defaulted() []string {
	if k.Spec == nil {
		return nil
	}
	return defaulted(k.Spec.Message(), "", map[protoreflect.FullName]bool{})
}

// defaulted doesn't go into a message that it is in already.
func defaulted(d protoreflect.MessageDescriptor, prefix string, within map[protoreflect.FullName]bool) []string {
	if within[d.FullName()] {
		return nil
	}
	within[d.FullName()] = true
	defer delete(within, d.FullName())
	var paths []string
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		path := prefix + f.JSONName()
		if o, ok := proto.GetExtension(f.Options(), schemav1.E_Field).(*schemav1.Field); ok && o.GetDefaulted() {
			paths = append(paths, path)
		}
		if f.Message() != nil && f.Cardinality() != protoreflect.Repeated {
			paths = append(paths, defaulted(f.Message(), path+".", within)...)
		}
	}
	return paths
}

// APIVersion is group/version, as manifests write it.
func (k *Kind) APIVersion() string { return k.Group + "/" + k.Version }

// String is the kind's name and group: VirtualDisk.virtualization.deckhouse.io.
func (k *Kind) String() string { return k.Name + "." + k.Group }

// New returns an empty object of the kind with apiVersion and kind set.
func (k *Kind) New() proto.Message {
	m := k.Type.New()
	k.SetType(m)
	return m.Interface()
}

// SetType sets apiVersion and kind of m, a message of the kind.
func (k *Kind) SetType(m protoreflect.Message) {
	m.Set(k.Descriptor.Fields().ByName("api_version"), protoreflect.ValueOfString(k.APIVersion()))
	m.Set(k.Descriptor.Fields().ByName("kind"), protoreflect.ValueOfString(k.Name))
}

// Of returns the kind of a message: ErrNotKind if it has no resource option,
// another error if the message lacks what every kind has.
func Of(d protoreflect.MessageDescriptor) (*Kind, error) {
	res, ok := proto.GetExtension(d.Options(), schemav1.E_Resource).(*schemav1.Resource)
	if !ok || res == nil {
		return nil, fmt.Errorf("%s: %w", d.FullName(), ErrNotKind)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, fmt.Errorf("kind %s: %w", d.FullName(), err)
	}
	k := &Kind{
		Group: res.GetGroup(), Version: res.GetVersion(), Name: string(d.Name()),
		Plural: res.GetPlural(), Singular: res.GetSingular(), ShortNames: slices.Clone(res.GetShortNames()),
		Gates:      slices.Clone(res.GetGates()),
		Namespaced: res.GetScope() == schemav1.Resource_SCOPE_NAMESPACED,
		Descriptor: t.Descriptor(), Type: t,
	}
	fields := k.Descriptor.Fields()
	k.Metadata, k.Spec, k.Status = fields.ByName("metadata"), fields.ByName("spec"), fields.ByName("status")
	for _, name := range []protoreflect.Name{"api_version", "kind", "metadata"} {
		if fields.ByName(name) == nil {
			return nil, fmt.Errorf("kind %s: no field %s", d.FullName(), name)
		}
	}
	k.findService()
	return k, nil
}

// Must returns the kind of m. It panics where m is no kind, which is an error of
// the program: kinds are written in the proto.
func Must(m proto.Message) *Kind {
	k, err := Of(m.ProtoReflect().Descriptor())
	if err != nil {
		panic(err)
	}
	return k
}

// All returns the kinds that are linked into the binary, sorted by group and name.
func All() []*Kind {
	var all []*Kind
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			if k, err := Of(f.Messages().Get(i)); err == nil {
				all = append(all, k)
			}
		}
		return true
	})
	slices.SortFunc(all, func(a, b *Kind) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Name, b.Name))
	})
	return all
}
