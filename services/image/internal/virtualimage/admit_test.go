package virtualimage

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
)

// withRegistry is a reconciler on a real registry.
func withRegistry(t *testing.T) *Reconciler[*imagev1.VirtualImage] {
	t.Helper()
	r := reconciler()
	registry := dvcrtest.Start(t, dvcrtest.Options{})
	r.Intake.Registry = intake.Registry{Registry: registry.Client(t), Host: registry.Options.Endpoint}
	pool, err := job.New(job.Options{Registry: r.Intake.Registry.Registry, StagingDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r.Intake.Imports = pool
	return r
}

// publishes puts some disk into the registry as the image.
func publishes(t *testing.T, r *Reconciler[*imagev1.VirtualImage], image *imagev1.VirtualImage) {
	t.Helper()
	repository, err := r.Intake.Registry.Repository(r.Kind.repository(image.GetMetadata()))
	if err != nil {
		t.Fatal(err)
	}
	upload, err := repository.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := upload.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repository.Push(t.Context(), image.GetMetadata().GetUid(), dvcr.Artifact{Disk: blob, Format: "qcow2"}); err != nil {
		t.Fatal(err)
	}
}

func TestAdmitJudgesChanges(t *testing.T) {
	otherURL := func(i *imagev1.VirtualImage) { i.Spec.DataSource.Http.Url = "http://127.0.0.1/other" }
	otherStorage := func(i *imagev1.VirtualImage) { i.Spec.Storage = imagev1.ImageStorage_PersistentVolumeClaim }
	label := func(i *imagev1.VirtualImage) { i.Metadata.Labels = map[string]string{"a": "b"} }
	r := withRegistry(t)
	made := someImage()
	made.Metadata.Name = "made"
	publishes(t, r, made)
	going := someImage()
	going.Metadata.DeletionTimestamp = timestamppb.New(now)
	cases := []struct {
		name   string
		old    *imagev1.VirtualImage
		change func(*imagev1.VirtualImage)
		path   string
	}{
		{"another source before Ready", someImage(), otherURL, ""},
		{"another source after Ready", made, otherURL, "spec.dataSource"},
		{"another storage after Ready", made, otherStorage, "spec"},
		{"a label after Ready", made, label, ""},
		{"another source while it goes", going, otherURL, "spec"},
		{"a label while it goes", going, label, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			changed := resource.Clone(c.old)
			c.change(changed)
			err := r.Admit(t.Context(), c.old, changed)
			if c.path == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if f := fault.From(err); f == nil || f.Class != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Path != c.path {
				t.Errorf("got %v, want %s refused", err, c.path)
			}
		})
	}
}

func TestAdmitLetsImagesComeAndGo(t *testing.T) {
	r := reconciler()
	if err := r.Admit(t.Context(), nil, someImage()); err != nil {
		t.Errorf("creation refused: %v", err)
	}
	if err := r.Admit(t.Context(), someImage(), nil); err != nil {
		t.Errorf("deletion refused: %v", err)
	}
}

func TestSpecIsNotChangedWhileTheRegistryIsAway(t *testing.T) {
	r := reconciler()
	client, err := dvcr.New(dvcr.Options{Endpoint: "127.0.0.1:1", PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	r.Intake.Registry.Registry = client
	changed := someImage()
	changed.Spec.DataSource.Http.Url = "http://127.0.0.1/other"
	if err := r.Admit(t.Context(), someImage(), changed); !fault.Is(err, fault.Transient) {
		t.Errorf("got %v, want a fault that passes", err)
	}
}

func TestNamespacesAreThoseOfMachines(t *testing.T) {
	got := usedInNamespaces([]*metav1.Holder{
		{Kind: "VirtualMachine", Namespace: "b"}, {Kind: "VirtualDisk", Namespace: "c"},
		{Kind: "VirtualMachine", Namespace: "a"}, {Kind: "VirtualMachine", Namespace: "b"},
	})
	if len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("namespaces %v", got)
	}
}
