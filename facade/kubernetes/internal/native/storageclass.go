package native

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

const defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"

// StorageClasses publishes the disk service's storage classes, and tells it
// which of all classes is the default: an administrator moves that annotation
// from one class to another, as everywhere in Kubernetes.
type StorageClasses struct {
	Kube  client.Client
	Disks diskv1.StorageClassServiceClient
}

// Publish implements Publisher. A class that is there is left as it is: most
// fields can't be changed in Kubernetes, and the rest is the administrator's.
func (p StorageClasses) Publish(ctx context.Context) error {
	list, err := p.Disks.ListStorageClasses(ctx, &diskv1.ListStorageClassesRequest{})
	if err != nil {
		return err
	}
	present := new(storagev1.StorageClassList)
	if err := p.Kube.List(ctx, present); err != nil {
		return err
	}
	told := ""
	for _, class := range list.GetItems() {
		if class.GetIsDefault() {
			told = class.GetName()
		}
		if slices.ContainsFunc(present.Items, func(c storagev1.StorageClass) bool { return c.Name == class.GetName() }) {
			continue
		}
		missing := storageClass(class)
		if err := p.Kube.Create(ctx, missing, fieldOwner); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		present.Items = append(present.Items, *missing)
	}
	marked := defaultOf(present.Items)
	if marked == told {
		return nil
	}
	_, err = p.Disks.SetDefaultStorageClass(ctx, &diskv1.SetDefaultStorageClassRequest{Name: marked})
	return err
}

// defaultOf is the name of the class that Kubernetes takes for the default: of
// several the newest, then the first by name. Empty where none is.
func defaultOf(classes []storagev1.StorageClass) string {
	marked := slices.DeleteFunc(slices.Clone(classes), func(c storagev1.StorageClass) bool {
		return c.Annotations[defaultClassAnnotation] != "true"
	})
	if len(marked) == 0 {
		return ""
	}
	return slices.MinFunc(marked, func(a, b storagev1.StorageClass) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	}).Name
}

func storageClass(class *diskv1.StorageClass) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingMode(class.GetVolumeBindingMode().String())
	policy := corev1.PersistentVolumeReclaimPolicy(class.GetReclaimPolicy())
	expansion := class.GetAllowVolumeExpansion()
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        class.GetName(),
			Labels:      map[string]string{managedLabel: "true"},
			Annotations: map[string]string{defaultClassAnnotation: strconv.FormatBool(class.GetIsDefault())},
		},
		Provisioner: class.GetProvisioner(), ReclaimPolicy: &policy,
		VolumeBindingMode: &mode, AllowVolumeExpansion: &expansion,
	}
}
