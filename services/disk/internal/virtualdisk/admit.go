package virtualdisk

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
)

// Admit refuses what the schema can't know to be wrong.
func (r *Reconciler) Admit(ctx context.Context, old, disk *diskv1.VirtualDisk) error {
	if disk == nil {
		return nil
	}
	if old == nil && strings.Contains(disk.GetMetadata().GetName(), ".") {
		return fault.Refuse("metadata.name", "FieldValueInvalid", "must not contain a dot")
	}
	wanted, refusal := wantedSize(disk)
	if refusal != nil {
		return refusal
	}
	if old == nil {
		return mayName(ctx, disk)
	}
	if proto.Equal(old.GetSpec(), disk.GetSpec()) {
		return nil
	}
	if deleted(old) {
		return fault.Refuse("spec", "FieldValueForbidden", "the disk is being deleted and can't be changed")
	}
	o := new(observation)
	if err := r.observe(ctx, old, o); err != nil {
		return err
	}
	switch {
	case o.lost:
		return fault.Refuse("spec", "FieldValueForbidden", "the disk has lost its data and can't be changed: delete it")
	case o.volume != nil:
		return admitChange(old, disk, wanted, o.volume.VirtualBytes)
	case proto.Equal(old.GetSpec().GetDataSource(), disk.GetSpec().GetDataSource()):
		return nil // what may be named was judged before
	}
	return mayName(ctx, disk) // it is not made yet, and begins anew
}

// mayName refuses a disk that names a Secret which its author may not read.
func mayName(ctx context.Context, disk *diskv1.VirtualDisk) error {
	secret := disk.GetSpec().GetDataSource().GetContainerImage().GetImagePullSecret()
	if secret == nil {
		return nil
	}
	if secret.GetName() == "" {
		return fault.Refuse("spec.dataSource.containerImage.imagePullSecret.name", "FieldValueRequired", "a Secret is named by its name")
	}
	return auth.RequireOfCaller(ctx, auth.Attributes{
		Verb: "get", Resource: "secrets", Namespace: disk.GetMetadata().GetNamespace(), Name: secret.GetName(),
	})
}

// admitChange judges a change of a disk that has its data already.
func admitChange(old, disk *diskv1.VirtualDisk, wanted, present int64) error {
	before, after := old.GetSpec().GetPersistentVolumeClaim(), disk.GetSpec().GetPersistentVolumeClaim()
	switch {
	case !proto.Equal(old.GetSpec().GetDataSource(), disk.GetSpec().GetDataSource()):
		return fault.Refuse("spec.dataSource", "FieldValueForbidden", "can't be changed once the disk is made")
	case before.GetStorageClassName() != after.GetStorageClassName():
		return fault.Refuse("spec.persistentVolumeClaim.storageClassName", "FieldValueForbidden",
			"can't be changed once the disk is made")
	case wanted == 0 && before.GetSize() != "":
		return fault.Refuse("spec.persistentVolumeClaim.size", "FieldValueForbidden",
			"can't be removed once the disk is made")
	case wanted != 0 && wanted < present:
		return fault.Refuse("spec.persistentVolumeClaim.size", "FieldValueForbidden",
			"a disk can't be made smaller: it has %s, and %s was asked for", quantity(present), after.GetSize())
	}
	return nil
}
