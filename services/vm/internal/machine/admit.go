package machine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/resource"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/placement"
)

const (
	invalid   = "FieldValueInvalid"
	forbidden = "FieldValueForbidden"

	apiGroup       = "virtualization.deckhouse.io"
	minMemoryBytes = 32 * mebibyte
)

// MaxDevices is how many disks and images a VM may have, those of attachments
// included.
const MaxDevices = 16

// Admit refuses what the schema can't know to be wrong.
func (r *Reconciler) Admit(ctx context.Context, old, vm *vmv1.VirtualMachine) error {
	if vm == nil {
		return nil
	}
	if old != nil && proto.Equal(old.GetSpec(), vm.GetSpec()) {
		return admitMetadata(old, vm)
	}
	if old != nil && old.GetMetadata().GetDeletionTimestamp() != nil {
		return fault.Refuse("spec", forbidden, "the VM is being deleted and can't be changed")
	}
	for _, check := range []error{
		admitMetadata(old, vm), checkCores(vm.GetSpec().GetCpu().GetCores()), admitMemory(vm.GetSpec()),
		r.admitDevices(old, vm), placement.Validate(vm.GetSpec()), r.admitSize(vm.GetSpec()),
		r.admitProvisioning(ctx, old, vm),
	} {
		if check != nil {
			return check
		}
	}
	return nil
}

// admitMetadata keeps people from using the platform's own keys; what an older
// version let in stays.
func admitMetadata(old, vm *vmv1.VirtualMachine) error {
	for _, part := range []struct {
		field    string
		old, new map[string]string
	}{
		{"metadata.labels", old.GetMetadata().GetLabels(), vm.GetMetadata().GetLabels()},
		{"metadata.annotations", old.GetMetadata().GetAnnotations(), vm.GetMetadata().GetAnnotations()},
	} {
		for _, key := range slices.Sorted(maps.Keys(part.new)) {
			if _, had := part.old[key]; !had && strings.Contains(key, apiGroup) {
				return fault.Refuse(part.field, forbidden, "key %q is reserved: keys must not contain %s", key, apiGroup)
			}
		}
	}
	return nil
}

func admitMemory(spec *vmv1.VirtualMachineSpec) error {
	const path = "spec.memory.size"
	size, err := resource.ParseQuantity(spec.GetMemory().GetSize())
	if err != nil {
		return fault.Refuse(path, invalid, "%q is no quantity, such as 1Gi", spec.GetMemory().GetSize())
	}
	if bytes, exact := size.AsInt64(); !exact || bytes < minMemoryBytes {
		return fault.Refuse(path, invalid, "must be at least %dMi, not %s", minMemoryBytes/mebibyte, spec.GetMemory().GetSize())
	}
	return nil
}

// admitDevices refuses devices that a VM can't have. A list that was let in once
// is not judged again: the images in it may have become Ready since.
func (r *Reconciler) admitDevices(old, vm *vmv1.VirtualMachine) error {
	const path = "spec.blockDeviceRefs"
	refs := vm.GetSpec().GetBlockDeviceRefs()
	if old != nil && slices.EqualFunc(refs, old.GetSpec().GetBlockDeviceRefs(), sameRef) {
		return nil
	}
	// Asked without the new list: it would exclude the attachments of what it names.
	attached := r.Attachments.Of(&vmv1.VirtualMachine{Metadata: vm.GetMetadata()})
	seen := map[string]int{}
	for i, ref := range refs {
		if first, twice := seen[describe(ref)]; twice {
			return fault.Refuse(fmt.Sprintf("%s[%d]", path, i), "FieldValueDuplicate",
				"%s is there already, as spec.blockDeviceRefs[%d]", describe(ref), first)
		}
		seen[describe(ref)] = i
		for _, a := range attached {
			if sameRef(a.Ref, ref) {
				return fault.Refuse(fmt.Sprintf("%s[%d]", path, i), "FieldValueDuplicate",
					"%s is attached already: delete VirtualMachineBlockDeviceAttachment %s first", describe(ref), a.Name)
			}
		}
	}
	if n := len(refs) + len(attached); n > MaxDevices {
		return fault.Refuse(path, forbidden, "a VM may have %d block devices, and with its %d attachments this one would have %d",
			MaxDevices, len(attached), n)
	}
	return r.admitBoot(vm)
}

// admitBoot refuses to boot from an image that is no CD-ROM: it can't be written
// to, and a guest that is installed on it needs that.
func (r *Reconciler) admitBoot(vm *vmv1.VirtualMachine) error {
	refs := vm.GetSpec().GetBlockDeviceRefs()
	if len(refs) == 0 || refs[0].GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
		return nil
	}
	state := r.Devices.State(refs[0], vm.GetMetadata().GetNamespace())
	if state.Found && state.Ready && !state.CDROM {
		return fault.Refuse("spec.blockDeviceRefs[0]", forbidden,
			"%s is neither a disk nor a CD-ROM image: a VM can't boot from it; make a VirtualDisk from it", describe(refs[0]))
	}
	return nil
}

func sameRef(a, b *vmv1.BlockDeviceRef) bool { return DeviceID(a) == DeviceID(b) }

func (r *Reconciler) admitSize(spec *vmv1.VirtualMachineSpec) error {
	found, exists := r.Classes.Class(spec.GetVirtualMachineClassName())
	if !exists {
		return nil // it may come later; the VM waits for it
	}
	if mismatch := class.Mismatch(found, spec); mismatch != "" {
		return fault.Refuse("spec", "SizingPolicyNotMatched", "class %s does not allow this size: %s",
			spec.GetVirtualMachineClassName(), mismatch)
	}
	return nil
}
