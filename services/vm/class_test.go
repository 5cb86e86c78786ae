package vm_test

import (
	"strings"
	"testing"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve/servetest"
)

const defaultAnnotation = "virtualmachineclass.virtualization.deckhouse.io/is-default-class"

// small is a class for up to four cores.
func (h *house) small(policy *vmv1.SizingPolicy) *vmv1.VirtualMachineClass {
	h.t.Helper()
	made, err := h.classes.Create(h.t.Context(), &vmv1.VirtualMachineClass{
		Metadata: &metav1.ObjectMeta{Name: "small"},
		Spec: &vmv1.VirtualMachineClassSpec{
			Cpu: &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Host}, SizingPolicies: []*vmv1.SizingPolicy{policy},
		},
	}, resource.WriteOptions{})
	check(h.t, err)
	return made
}

// annotate sets the annotations of a class.
func (h *house) annotate(name string, annotations map[string]string) error {
	class, err := h.classes.Get(h.t.Context(), resource.Key{Name: name})
	check(h.t, err)
	class.Metadata.Annotations, class.Metadata.ResourceVersion = annotations, ""
	_, err = h.classes.Update(h.t.Context(), class, resource.UpdateOptions{Mask: []string{"metadata.annotations"}})
	return err
}

// plain makes a VM that names neither class nor coreFraction.
func (h *house) plain(name string) (*vmv1.VirtualMachine, error) {
	return h.machines.Create(h.t.Context(), &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &vmv1.VirtualMachineSpec{
			Cpu: &vmv1.CPU{Cores: 2}, Memory: &vmv1.Memory{Size: "64Mi"},
			BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}},
		},
	}, resource.WriteOptions{})
}

func refused(t *testing.T, err error, path string, words ...string) {
	t.Helper()
	f := fault.From(err)
	if f == nil || len(f.Fields) != 1 || f.Fields[0].Path != path {
		t.Fatalf("got %v, want a refusal of %s", err, path)
	}
	for _, word := range words {
		if !strings.Contains(f.Message, word) {
			t.Errorf("%q does not say %q", f.Message, word)
		}
	}
}

func TestVMIsCompletedByItsClass(t *testing.T) {
	h := newHouse(t)
	servetest.Await(t, h.classes, resource.Key{Name: "host"}, "is there", func(*vmv1.VirtualMachineClass) bool { return true })
	h.small(&vmv1.SizingPolicy{
		Cores: &vmv1.SizingCores{Min: 1, Max: 4}, CoreFractions: []int32{20, 50}, DefaultCoreFraction: "20",
	})
	first, err := h.plain("first")
	check(t, err)
	if spec := first.GetSpec(); spec.GetVirtualMachineClassName() != "generic" || spec.GetCpu().GetCoreFraction() != "100%" {
		t.Errorf("the first has %v", spec)
	}
	refused(t, h.annotate("small", map[string]string{defaultAnnotation: "true"}), "metadata.annotations", "generic")

	check(t, h.annotate("generic", nil))
	_, err = h.plain("second")
	refused(t, err, "spec.virtualMachineClassName", defaultAnnotation)
	check(t, h.annotate("small", map[string]string{defaultAnnotation: "true"}))
	second, err := h.plain("second")
	check(t, err)
	if spec := second.GetSpec(); spec.GetVirtualMachineClassName() != "small" || spec.GetCpu().GetCoreFraction() != "20%" {
		t.Errorf("the second has %v", spec)
	}
	first, err = h.machines.Get(t.Context(), key("first"))
	if err != nil || first.GetSpec().GetVirtualMachineClassName() != "generic" {
		t.Errorf("the first has become %v, %v", first.GetSpec(), err)
	}
}

// allow changes what a class allows.
func (h *house) allow(name string, policies ...*vmv1.SizingPolicy) {
	h.t.Helper()
	class, err := h.classes.Get(h.t.Context(), resource.Key{Name: name})
	check(h.t, err)
	class.Spec.SizingPolicies, class.Metadata.ResourceVersion = policies, ""
	_, err = h.classes.Update(h.t.Context(), class, resource.UpdateOptions{Mask: []string{"spec.sizingPolicies"}})
	check(h.t, err)
}

// awaitSizing waits until the VM's condition says so.
func (h *house) awaitSizing(name string, status metav1.ConditionStatus_Value, words string) *vmv1.VirtualMachine {
	h.t.Helper()
	return servetest.Await(h.t, h.machines, key(name), "was matched: "+status.String()+" "+words, func(vm *vmv1.VirtualMachine) bool {
		c := condition.Find(vm.GetStatus().GetConditions(), "SizingPolicyMatched")
		return c.GetStatus() == status && strings.Contains(c.GetMessage(), words)
	})
}

func TestVMThatItsClassNoLongerAllowsRunsOnAndSaysSo(t *testing.T) {
	h := newHouse(t)
	h.addDisk("root")
	h.create("web")
	uid := h.awaitPhase("web", vmv1.VirtualMachinePhase_Running).GetMetadata().GetUid()
	h.awaitSizing("web", metav1.ConditionStatus_True, "")
	before := processes(t, uid)

	one := &vmv1.SizingCores{Min: 1, Max: 4}
	for _, test := range []struct {
		policy *vmv1.SizingPolicy
		rule   string
	}{
		{&vmv1.SizingPolicy{Cores: &vmv1.SizingCores{Min: 2, Max: 4}}, "spec.cpu.cores is 1, and the class has 2 to 4"},
		{&vmv1.SizingPolicy{Cores: one, CoreFractions: []int32{5, 20}}, "spec.cpu.coreFraction is 100%, and must be one of 5%, 20%"},
		{&vmv1.SizingPolicy{Cores: one, Memory: &vmv1.SizingMemory{Min: "1Gi", Max: "2Gi"}}, "spec.memory.size is 64Mi, and must be at least 1Gi"},
	} {
		h.allow("generic", test.policy)
		broken := h.awaitSizing("web", metav1.ConditionStatus_False, test.rule)
		if c := condition.Find(broken.GetStatus().GetConditions(), "SizingPolicyMatched"); c.GetReason() != "SizingPolicyNotMatched" {
			t.Errorf("its reason is %s", c.GetReason())
		}
		if phase := broken.GetStatus().GetPhase(); phase != vmv1.VirtualMachinePhase_Running {
			t.Errorf("its phase is %s", phase)
		}
	}
	broken, err := h.machines.Get(t.Context(), key("web"))
	check(t, err)
	broken.Spec.RunPolicy, broken.Metadata.ResourceVersion = vmv1.RunPolicy_Manual, ""
	_, err = h.machines.Update(t.Context(), broken, resource.UpdateOptions{Mask: []string{"spec.runPolicy"}})
	refused(t, err, "spec", "class generic", "spec.memory.size is 64Mi")

	h.allow("generic")
	h.awaitSizing("web", metav1.ConditionStatus_True, "")
	if after := processes(t, uid); len(after) != 1 || after[0] != before[0] {
		t.Errorf("process %v has become %v", before, after)
	}
	_, err = h.machines.Delete(t.Context(), key("web"), resource.DeleteOptions{})
	check(t, err)
	servetest.AwaitGone(t, h.machines, key("web"))
}
