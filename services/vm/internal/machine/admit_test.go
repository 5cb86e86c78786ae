package machine_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
)

// shelf is classes by name.
type shelf map[string]*vmv1.VirtualMachineClass

func (s shelf) Class(name string) (*vmv1.VirtualMachineClass, bool) {
	class, found := s[name]
	return class, found
}

func TestVMsAreJudged(t *testing.T) {
	r := newWorld(t, nil).r
	r.Secrets = nil
	r.Attachments = &world{attached: []machine.Attachment{{Name: "data", Ref: diskRef("data")}}}
	r.Devices.(*devices).states["VirtualImage linux"] = machine.DeviceState{Found: true, Ready: true}
	r.Devices.(*devices).states["VirtualImage iso"] = machine.DeviceState{Found: true, Ready: true, CDROM: true}
	r.Classes = shelf{"small": {
		Metadata: &metav1.ObjectMeta{Name: "small"},
		Spec: &vmv1.VirtualMachineClassSpec{
			SizingPolicies: []*vmv1.SizingPolicy{{Cores: &vmv1.SizingCores{Min: 1, Max: 2}}},
		},
	}}
	for _, test := range []struct {
		name  string
		spoil func(*vmv1.VirtualMachine)
		field string
	}{
		{"a good one", func(*vmv1.VirtualMachine) {}, ""},
		{"a class that may come later", func(vm *vmv1.VirtualMachine) { vm.Spec.VirtualMachineClassName = "later" }, ""},
		{"memory", func(vm *vmv1.VirtualMachine) { vm.Spec.Memory.Size = "much" }, "spec.memory.size"},
		{"little memory", func(vm *vmv1.VirtualMachine) { vm.Spec.Memory.Size = "31Mi" }, "spec.memory.size"},
		{"cores that can't be divided", func(vm *vmv1.VirtualMachine) { vm.Spec.Cpu.Cores = 17 }, "spec.cpu.cores"},
		{"too many cores", func(vm *vmv1.VirtualMachine) { vm.Spec.Cpu.Cores = 256 }, "spec.cpu.cores"},
		{"one disk twice", func(vm *vmv1.VirtualMachine) {
			vm.Spec.BlockDeviceRefs = append(vm.Spec.BlockDeviceRefs, vm.Spec.BlockDeviceRefs[0])
		}, "spec.blockDeviceRefs[1]"},
		{"a disk that is attached", func(vm *vmv1.VirtualMachine) {
			vm.Spec.BlockDeviceRefs = append(vm.Spec.BlockDeviceRefs, diskRef("data"))
		}, "spec.blockDeviceRefs[1]"},
		{"too many disks with what is attached", func(vm *vmv1.VirtualMachine) {
			for i := range 15 {
				vm.Spec.BlockDeviceRefs = append(vm.Spec.BlockDeviceRefs, diskRef(fmt.Sprint(i)))
			}
		}, "spec.blockDeviceRefs"},
		{"an image to boot from", func(vm *vmv1.VirtualMachine) {
			vm.Spec.BlockDeviceRefs[0] = &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualImage, Name: "linux"}
		}, "spec.blockDeviceRefs[0]"},
		{"a CD-ROM to boot from", func(vm *vmv1.VirtualMachine) {
			vm.Spec.BlockDeviceRefs[0] = &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualImage, Name: "iso"}
		}, ""},
		{"a Secret where there are none", func(vm *vmv1.VirtualMachine) { vm.Spec.Provisioning = userDataFrom("script") }, "spec.provisioning.userDataRef"},
		{"a label that no node can have", func(vm *vmv1.VirtualMachine) { vm.Spec.NodeSelector = map[string]string{"a b": "c"} }, "spec.nodeSelector"},
		{"a size that the class refuses", func(vm *vmv1.VirtualMachine) {
			vm.Spec.VirtualMachineClassName, vm.Spec.Cpu.Cores = "small", 4
		}, "spec"},
		{"the platform's label", func(vm *vmv1.VirtualMachine) {
			vm.Metadata.Labels = map[string]string{"virtualization.deckhouse.io/x": "y"}
		}, "metadata.labels"},
		{"the platform's annotation", func(vm *vmv1.VirtualMachine) {
			vm.Metadata.Annotations = map[string]string{"x.virtualization.deckhouse.io/x": "y"}
		}, "metadata.annotations"},
	} {
		t.Run(test.name, func(t *testing.T) {
			vm := newMachine("web")
			test.spoil(vm)
			wantRefusal(t, r.Admit(t.Context(), nil, vm), test.field)
			wantRefusal(t, r.Admit(t.Context(), newMachine("web"), vm), test.field)
			wantRefusal(t, r.Admit(t.Context(), vm, proto.CloneOf(vm)), "") // what was let in stays
		})
	}
}

func diskRef(name string) *vmv1.BlockDeviceRef {
	return &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: name}
}

func TestDeletedVMsCannotBeChangedButTheirMetadataCan(t *testing.T) {
	r := &machine.Reconciler{Classes: shelf{}}
	old := newMachine("web")
	old.Metadata.DeletionTimestamp = timestamppb.Now()
	changed := proto.CloneOf(old)
	changed.Metadata.Labels = map[string]string{"a": "b"}
	wantRefusal(t, r.Admit(t.Context(), old, changed), "")
	changed.Spec.Cpu.Cores = 2
	wantRefusal(t, r.Admit(t.Context(), old, changed), "spec")
	wantRefusal(t, r.Admit(t.Context(), old, nil), "")
}

func wantRefusal(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if f := fault.From(err); f == nil || f.Class != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Path != field {
		t.Errorf("got %v, want a refusal of %s", err, field)
	}
}
