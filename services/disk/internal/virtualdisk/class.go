package virtualdisk

import (
	"strings"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
)

const reasonStorageClassNotReady = "StorageClassNotReady"

// Classes are the storage classes that there are.
type Classes []*diskv1.StorageClass

// LocalClasses are the classes of one machine.
func LocalClasses() Classes {
	return Classes{{
		Name: "local", Provisioner: "local.orlop.dev", IsDefault: true,
		VolumeBindingMode:    diskv1.VolumeBindingMode_Immediate,
		AllowVolumeExpansion: true, ReclaimPolicy: "Delete",
	}}
}

// Choose returns the class of that name, or the default one where it is empty.
func (c Classes) Choose(name string) (*diskv1.StorageClass, *fault.Fault) {
	var names []string
	for _, class := range c {
		if class.GetName() == name || name == "" && class.GetIsDefault() {
			return class, nil
		}
		names = append(names, class.GetName())
	}
	if name == "" {
		return nil, fault.New(fault.NotReady, reasonStorageClassNotReady,
			"no storage class is the default: name one of %s", strings.Join(names, ", "))
	}
	return nil, fault.New(fault.NotReady, reasonStorageClassNotReady,
		"there is no storage class %q: name one of %s", name, strings.Join(names, ", "))
}
