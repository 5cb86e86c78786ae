package native

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

const defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"

// StorageClasses publishes the disk service's storage classes.
type StorageClasses struct {
	Kube  client.Client
	Disks diskv1.StorageClassServiceClient
}

// Publish implements Publisher. Most fields of a class can't be changed in
// Kubernetes: a class that differs is left as it is, and the error says so.
func (p StorageClasses) Publish(ctx context.Context) error {
	list, err := p.Disks.ListStorageClasses(ctx, &diskv1.ListStorageClassesRequest{})
	if err != nil {
		return err
	}
	for _, class := range list.GetItems() {
		if err := apply(ctx, p.Kube, storageClass(class)); err != nil {
			return err
		}
	}
	return nil
}

func storageClass(class *diskv1.StorageClass) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingMode(class.GetVolumeBindingMode().String())
	policy := corev1.PersistentVolumeReclaimPolicy(class.GetReclaimPolicy())
	expansion := class.GetAllowVolumeExpansion()
	return &storagev1.StorageClass{
		TypeMeta: metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        class.GetName(),
			Labels:      map[string]string{managedLabel: "true"},
			Annotations: map[string]string{defaultClassAnnotation: strconv.FormatBool(class.GetIsDefault())},
		},
		Provisioner: class.GetProvisioner(), ReclaimPolicy: &policy,
		VolumeBindingMode: &mode, AllowVolumeExpansion: &expansion,
	}
}
