package native_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"orlop.dev/facade/kubernetes/internal/native"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

const annotation = "storageclass.kubernetes.io/is-default-class"

// disks are a disk service with two classes.
type disks struct{ marked string }

func (d *disks) ListStorageClasses(context.Context, *diskv1.ListStorageClassesRequest, ...grpc.CallOption) (*diskv1.ListStorageClassesResponse, error) {
	response := new(diskv1.ListStorageClassesResponse)
	for _, name := range []string{"local", "local-wffc"} {
		response.Items = append(response.Items, &diskv1.StorageClass{
			Name: name, Provisioner: "local.orlop.dev", IsDefault: name == d.marked,
			VolumeBindingMode: diskv1.VolumeBindingMode_Immediate, ReclaimPolicy: "Delete",
		})
	}
	return response, nil
}

func (d *disks) SetDefaultStorageClass(_ context.Context, r *diskv1.SetDefaultStorageClassRequest, _ ...grpc.CallOption) (*diskv1.SetDefaultStorageClassResponse, error) {
	d.marked = r.GetName()
	return &diskv1.SetDefaultStorageClassResponse{}, nil
}

func TestDefaultStorageClassIsTheAdministratorsToMove(t *testing.T) {
	kube, service := fake.NewClientBuilder().Build(), &disks{marked: "local"}
	publisher := native.StorageClasses{Kube: kube, Disks: service}
	publish := func(want string) {
		t.Helper()
		if err := publisher.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		if service.marked != want {
			t.Fatalf("the service has the default %q, want %q", service.marked, want)
		}
	}
	mark := func(name, value string) {
		t.Helper()
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		patch := `{"metadata":{"annotations":{"` + annotation + `":"` + value + `"}}}`
		if err := kube.Patch(t.Context(), class, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	publish("local")
	publish("local")
	mark("local", "false")
	publish("")
	mark("local-wffc", "true")
	publish("local-wffc")
	mark("local", "true")
	publish("local") // of two of the same age the first by name
	mark("local", "false")
	mark("local-wffc", "false")
	foreign := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "foreign", Annotations: map[string]string{annotation: "true"}},
		Provisioner: "example.com/storage",
	}
	if err := kube.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	publish("foreign")
	publish("foreign")
}

func TestMissingStorageClassComesBack(t *testing.T) {
	kube, service := fake.NewClientBuilder().Build(), &disks{marked: "local"}
	publisher := native.StorageClasses{Kube: kube, Disks: service}
	for range 2 {
		if err := publisher.Publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		class := new(storagev1.StorageClass)
		if err := kube.Get(t.Context(), client.ObjectKey{Name: "local"}, class); err != nil {
			t.Fatal(err)
		}
		if class.Provisioner != "local.orlop.dev" || class.Annotations[annotation] != "true" {
			t.Errorf("class is %v", class)
		}
		if err := kube.Delete(t.Context(), class); err != nil {
			t.Fatal(err)
		}
	}
}
