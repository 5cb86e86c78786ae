package native

import (
	"context"
	"embed"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
)

// Definitions are those of kinds that are not Kubernetes' own and that a cluster
// with storage has all the same.
//
//go:embed *.yaml
var Definitions embed.FS

// VolumeSnapshotClasses publishes the snapshot service's volume snapshot classes.
type VolumeSnapshotClasses struct {
	Kube      client.Client
	Snapshots snapshotv1.VolumeSnapshotClassServiceClient
}

// Publish implements Publisher. A class that is there is left as it is.
func (p VolumeSnapshotClasses) Publish(ctx context.Context) error {
	list, err := p.Snapshots.ListVolumeSnapshotClasses(ctx, &snapshotv1.ListVolumeSnapshotClassesRequest{})
	if err != nil {
		return err
	}
	for _, class := range list.GetItems() {
		err := p.Kube.Create(ctx, volumeSnapshotClass(class), fieldOwner)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func volumeSnapshotClass(class *snapshotv1.VolumeSnapshotClass) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{
		"driver": class.GetDriver(), "deletionPolicy": class.GetDeletionPolicy(),
	}}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "snapshot.storage.k8s.io", Version: "v1", Kind: "VolumeSnapshotClass"})
	object.SetName(class.GetName())
	object.SetLabels(map[string]string{managedLabel: "true"})
	return object
}
