package manifest_test

import (
	"encoding/json"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

func TestDecodePutsRightWhatManifestsWrite(t *testing.T) {
	var d diskv1.VirtualDisk
	err := manifest.DecodeJSON([]byte(`{
		"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualDisk",
		"metadata": {"name": "a", "creationTimestamp": null, "generation": 3},
		"spec": {"persistentVolumeClaim": {"size": 1073741824, "storageClassName": null}, "dataSource": {"type": ""}},
		"status": {"conditions": [], "attachedToVirtualMachines": [{"name": "vm", "mounted": false}]}}`), &d)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.GetSpec().GetPersistentVolumeClaim().GetSize(); got != "1073741824" {
		t.Errorf("size %q", got)
	}
	if d.GetMetadata().GetGeneration() != 3 || d.GetStatus().GetAttachedToVirtualMachines()[0].Mounted == nil {
		t.Errorf("got %v", &d)
	}
}

func TestDecodeRefusesByPath(t *testing.T) {
	cases := []struct{ name, text, path, rule string }{
		{"unknown field", `{"spec": {"dataSouce": {}}}`, "spec.dataSouce", "FieldUnknown"},
		{"the proto's name", `{"spec": {"data_source": {}}}`, "spec.data_source", "FieldUnknown"},
		{"unknown word", `{"spec": {"dataSource": {"type": "FTP"}}}`, "spec.dataSource.type", "FieldValueNotSupported"},
		{"word of no meaning", `{"spec": {"dataSource": {"type": "Unspecified"}}}`, "spec.dataSource.type", "FieldValueNotSupported"},
		{"number for a word", `{"spec": {"dataSource": {"type": 1}}}`, "spec.dataSource.type", "FieldValueTypeInvalid"},
		{"number for a string", `{"metadata": {"name": 1}}`, "metadata.name", "FieldValueTypeInvalid"},
		{"string for an object", `{"spec": "x"}`, "spec", "FieldValueTypeInvalid"},
		{"number in a map", `{"metadata": {"labels": {"a": 1}}}`, "metadata.labels.a", "FieldValueTypeInvalid"},
		{"null in a list", `{"metadata": {"finalizers": [null]}}`, "metadata.finalizers[0]", "FieldValueTypeInvalid"},
		{"too large", `{"metadata": {"generation": 5000000000}}`, "metadata.generation", "FieldValueInvalid"},
		{"a fraction", `{"metadata": {"generation": 1.5}}`, "metadata.generation", "FieldValueTypeInvalid"},
		{"no time", `{"metadata": {"creationTimestamp": "today"}}`, "metadata.creationTimestamp", "FieldValueInvalid"},
		{"deep in a list", `{"status": {"conditions": [{"type": "A"}, {"status": "Perhaps"}]}}`, "status.conditions[1].status", "FieldValueNotSupported"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := manifest.DecodeJSON([]byte(c.text), &diskv1.VirtualDisk{})
			f := fault.From(err)
			if f == nil || f.Class != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Path != c.path || f.Fields[0].Rule != c.rule {
				t.Fatalf("got %+v, want %s to break %s", f, c.path, c.rule)
			}
		})
	}
}

func TestDecodeNamesAllMistakes(t *testing.T) {
	err := manifest.DecodeJSON([]byte(`{"spec": {"a": 1, "b": 2}}`), &diskv1.VirtualDisk{})
	if f := fault.From(err); f == nil || len(f.Fields) != 2 {
		t.Errorf("got %+v, want two fields", f)
	}
}

func TestEncodeIsTheManifest(t *testing.T) {
	m, err := manifest.Encode(&diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Name: "a", Generation: math.MaxInt32},
		Status:   &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, SourceUid: "u"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"metadata":{"generation":2147483647,"name":"a"},"status":{"phase":"Ready","sourceUID":"u"}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if g, ok := m["metadata"].(map[string]any)["generation"].(int64); !ok || g != math.MaxInt32 {
		t.Error("a whole number is not an int64")
	}
}

func TestDropUnknownDropsFieldsOnly(t *testing.T) {
	known := manifest.DropUnknown(map[string]any{
		"new":    true,
		"spec":   map[string]any{"newer": 1, "dataSource": map[string]any{"type": "FTP", "newest": 1}},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "A", "weight": 1}}},
	}, &diskv1.VirtualDisk{})
	text, err := json.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"spec":{"dataSource":{"type":"FTP"}},"status":{"conditions":[{"type":"A"}]}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestDigestSeesWishesOnly(t *testing.T) {
	base := &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Name: "a", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"}},
		Spec:     &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: "1Gi"}},
	}
	cases := []struct {
		name   string
		change func(*diskv1.VirtualDisk)
		same   bool
	}{
		{"status", func(d *diskv1.VirtualDisk) { d.Status = &diskv1.VirtualDiskStatus{Capacity: "1Gi"} }, true},
		{"version", func(d *diskv1.VirtualDisk) { d.Metadata.ResourceVersion = "7" }, true},
		{"an ignored annotation", func(d *diskv1.VirtualDisk) { d.Metadata.Annotations["orlop.dev/synced"] = "x" }, true},
		{"an annotation", func(d *diskv1.VirtualDisk) { d.Metadata.Annotations["b"] = "1" }, false},
		{"a label", func(d *diskv1.VirtualDisk) { d.Metadata.Labels["l"] = "2" }, false},
		{"spec", func(d *diskv1.VirtualDisk) { d.Spec.PersistentVolumeClaim.Size = "2Gi" }, false},
	}
	want := digest(t, base)
	if len(want) != 16 {
		t.Errorf("digest %q is not 16 characters long", want)
	}
	for _, c := range cases {
		changed := proto.CloneOf(base)
		c.change(changed)
		if got := digest(t, changed); (got == want) != c.same {
			t.Errorf("%s: same digest is %t, want %t", c.name, got == want, c.same)
		}
	}
}

func digest(t *testing.T, m proto.Message) string {
	t.Helper()
	d, err := manifest.Digest(m, "orlop.dev/")
	if err != nil {
		t.Fatal(err)
	}
	return d
}
