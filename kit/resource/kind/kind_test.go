package kind_test

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

func TestKindIsReadFromItsDescriptor(t *testing.T) {
	k := kind.Must(&diskv1.VirtualDisk{})
	if k.Name != "VirtualDisk" || k.Plural != "virtualdisks" || k.Singular != "virtualdisk" || !k.Namespaced {
		t.Errorf("got %+v", k)
	}
	if k.APIVersion() != "virtualization.deckhouse.io/v1alpha2" {
		t.Errorf("apiVersion %s", k.APIVersion())
	}
	for _, v := range kind.Verbs() {
		m := k.Methods.Of(v)
		if m == nil {
			t.Errorf("no method to %s", v)
			continue
		}
		if got, ok := k.VerbOf(m.FullName()); !ok || got != v {
			t.Errorf("%s is to %s, want %s", m.FullName(), got, v)
		}
	}
	if got := kind.Path(k.Methods.Watch); got != "/orlop.disk.v1.VirtualDiskService/WatchVirtualDisks" {
		t.Errorf("path %s", got)
	}
}

func TestDefaultedFieldsAreFoundInMessagesToo(t *testing.T) {
	want := []string{"virtualMachineClassName", "cpu.coreFraction"}
	if got := kind.Must(&vmv1.VirtualMachine{}).Defaulted(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The plural of class is not class + s.
func TestMethodsOfAnIrregularPluralAreFound(t *testing.T) {
	k := kind.Must(&vmv1.VirtualMachineClass{})
	if k.Namespaced || k.Methods.List == nil || k.Methods.Watch == nil || k.Methods.Claim != nil {
		t.Errorf("got %+v", k.Methods)
	}
}

func TestOtherMessagesAreNoKinds(t *testing.T) {
	if _, err := kind.Of((&metav1.ObjectMeta{}).ProtoReflect().Descriptor()); !errors.Is(err, kind.ErrNotKind) {
		t.Errorf("got %v, want ErrNotKind", err)
	}
	for _, k := range kind.All() {
		if k.Service == "" {
			t.Errorf("%s has no service", k)
		}
	}
}

func TestTarget(t *testing.T) {
	disk, class := kind.Must(&diskv1.VirtualDisk{}), kind.Must(&vmv1.VirtualMachineClass{})
	in := func(namespace, name string) *diskv1.VirtualDisk {
		return &diskv1.VirtualDisk{Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	cases := []struct {
		name    string
		kind    *kind.Kind
		req     proto.Message
		want    kind.Target
		refused string
	}{
		{"get", disk, &metav1.GetRequest{Namespace: "n", Name: "a"}, kind.Target{Namespace: "n", Name: "a"}, ""},
		{"list of all", disk, &metav1.ListRequest{}, kind.Target{}, ""},
		{"from metadata", disk, &diskv1.CreateVirtualDiskRequest{VirtualDisk: in("n", "a")}, kind.Target{Namespace: "n", Name: "a"}, ""},
		{"both agree", disk, &diskv1.CreateVirtualDiskRequest{Namespace: "n", VirtualDisk: in("n", "a")}, kind.Target{Namespace: "n", Name: "a"}, ""},
		{"namespaces differ", disk, &diskv1.CreateVirtualDiskRequest{Namespace: "n", VirtualDisk: in("m", "a")}, kind.Target{}, "metadata.namespace"},
		{"names differ", disk, &diskv1.UpdateVirtualDiskRequest{Name: "b", VirtualDisk: in("n", "a")}, kind.Target{}, "metadata.name"},
		{"a class has no namespace", class, &metav1.GetRequest{Namespace: "n", Name: "a"}, kind.Target{}, "metadata.namespace"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.kind.Target(c.req)
			if c.refused != "" {
				if f := fault.From(err); f == nil || f.Class != fault.Invalid || f.Fields[0].Path != c.refused {
					t.Errorf("got %v, want %s refused", err, c.refused)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}
