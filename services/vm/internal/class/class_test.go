package class

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/vm/internal/node"
)

func nodes() []node.Node {
	all := node.Simulate([]string{"a", "b"}, node.Demand{MilliCPU: 8000, MemoryBytes: 16 << 30})
	all[1].Labels["disktype"] = "ssd"
	all[1].MemoryBytes = 4 << 30
	return all
}

func told(context.Context) ([]node.Node, error) { return nodes(), nil }

func selector(labels map[string]string, expressions ...*vmv1.NodeSelectorRequirement) *vmv1.ClassNodeSelector {
	return &vmv1.ClassNodeSelector{MatchLabels: labels, MatchExpressions: expressions}
}

func TestClassIsReadyWhereThereAreNodes(t *testing.T) {
	in := func(operator string, values ...string) *vmv1.NodeSelectorRequirement {
		return &vmv1.NodeSelectorRequirement{Key: "disktype", Operator: operator, Values: values}
	}
	for _, test := range []struct {
		name   string
		spec   *vmv1.VirtualMachineClassSpec
		phase  vmv1.ClassPhase_Value
		reason string
		nodes  []string
		memory string
	}{
		{"everywhere", &vmv1.VirtualMachineClassSpec{}, vmv1.ClassPhase_Ready, "SuitableNodesFound", []string{"a", "b"}, "8Gi"},
		{"by label", &vmv1.VirtualMachineClassSpec{NodeSelector: selector(map[string]string{"disktype": "ssd"})},
			vmv1.ClassPhase_Ready, "SuitableNodesFound", []string{"b"}, "4Gi"},
		{"by expression", &vmv1.VirtualMachineClassSpec{NodeSelector: selector(nil, in("NotIn", "ssd"))},
			vmv1.ClassPhase_Ready, "SuitableNodesFound", []string{"a"}, "8Gi"},
		{"nowhere", &vmv1.VirtualMachineClassSpec{NodeSelector: selector(map[string]string{"disktype": "tape"})},
			vmv1.ClassPhase_Pending, "NoSuitableNodesFound", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Reconciler{Nodes: told, InUse: func(string) int { return 0 }, Now: time.Now}
			result, err := r.Reconcile(t.Context(), &vmv1.VirtualMachineClass{Metadata: &metav1.ObjectMeta{Name: "c"}, Spec: test.spec})
			if err != nil {
				t.Fatal(err)
			}
			status := result.Status.(*vmv1.VirtualMachineClassStatus)
			if status.GetPhase() != test.phase || condition.Find(status.GetConditions(), "Ready").GetReason() != test.reason ||
				!slices.Equal(status.GetAvailableNodes(), test.nodes) || status.GetMaxAllocatableResources()["memory"] != test.memory {
				t.Errorf("status is %v", status)
			}
		})
	}
}

func TestDeletedClassGoesWithItsLastVM(t *testing.T) {
	users := 2
	r := &Reconciler{Nodes: told, InUse: func(string) int { return users }, Now: time.Now}
	class := &vmv1.VirtualMachineClass{Metadata: &metav1.ObjectMeta{Name: "c", DeletionTimestamp: timestamppb.Now()}}
	result, err := r.Reconcile(t.Context(), class)
	if err != nil || result.Finalized {
		t.Fatalf("%v, %v", result, err)
	}
	status := result.Status.(*vmv1.VirtualMachineClassStatus)
	inUse := condition.Find(status.GetConditions(), "InUse")
	if status.GetPhase() != vmv1.ClassPhase_Terminating || inUse.GetMessage() != "2 VMs use the class." {
		t.Errorf("status is %v", status)
	}
	users = 0
	if result, err = r.Reconcile(t.Context(), class); err != nil || !result.Finalized {
		t.Errorf("%v, %v", result, err)
	}
}

func TestClassesAreJudged(t *testing.T) {
	cores := func(ranges ...int32) *vmv1.VirtualMachineClassSpec {
		spec := new(vmv1.VirtualMachineClassSpec)
		for i := 0; i < len(ranges); i += 2 {
			spec.SizingPolicies = append(spec.SizingPolicies, &vmv1.SizingPolicy{
				Cores: &vmv1.SizingCores{Min: ranges[i], Max: ranges[i+1]},
			})
		}
		return spec
	}
	for _, test := range []struct {
		spec  *vmv1.VirtualMachineClassSpec
		field string
	}{
		{cores(1, 4, 5, 8), ""},
		{cores(1, 4, 4, 8), "spec.sizingPolicies[1].cores"},
		{cores(5, 8, 1, 16), "spec.sizingPolicies[1].cores"},
		{&vmv1.VirtualMachineClassSpec{NodeSelector: selector(nil, &vmv1.NodeSelectorRequirement{Key: "a", Operator: "In"})},
			"spec.nodeSelector.matchExpressions[0]"},
		{&vmv1.VirtualMachineClassSpec{SizingPolicies: []*vmv1.SizingPolicy{{DedicatedCores: []bool{true}}}},
			"spec.sizingPolicies[0].dedicatedCores"},
		{fraction("20", 5, 20), ""},
		{fraction("20"), ""},
		{fraction("10", 5, 20), "spec.sizingPolicies[0].defaultCoreFraction"},
		{fraction("101"), "spec.sizingPolicies[0].defaultCoreFraction"},
		{fraction("+20"), "spec.sizingPolicies[0].defaultCoreFraction"},
		{fraction("Auto"), "spec.sizingPolicies[0].defaultCoreFraction"},
	} {
		err := new(Reconciler).Admit(t.Context(), nil, &vmv1.VirtualMachineClass{Spec: test.spec})
		if test.field == "" && err == nil {
			continue
		}
		if f := fault.From(err); f == nil || f.Class != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Path != test.field {
			t.Errorf("%v: got %v, want a refusal of %q", test.spec, err, test.field)
		}
	}
}

// fraction is a class with a default, and the fractions that it allows.
func fraction(text string, allowed ...int32) *vmv1.VirtualMachineClassSpec {
	return &vmv1.VirtualMachineClassSpec{SizingPolicies: []*vmv1.SizingPolicy{{
		Cores: &vmv1.SizingCores{Min: 1, Max: 4}, DefaultCoreFraction: text, CoreFractions: allowed,
	}}}
}

func annotated(name, value string) *vmv1.VirtualMachineClass {
	return &vmv1.VirtualMachineClass{Metadata: &metav1.ObjectMeta{Name: name, Annotations: map[string]string{defaultAnnotation: value}}}
}

func TestThereIsOneDefaultClass(t *testing.T) {
	all := []*vmv1.VirtualMachineClass{{Metadata: &metav1.ObjectMeta{Name: "plain"}}}
	r := &Reconciler{All: func() ([]*vmv1.VirtualMachineClass, error) { return all, nil }}
	if _, err := Default(all); !fault.Is(err, fault.Invalid) || fault.From(err).Fields[0].Path != "spec.virtualMachineClassName" {
		t.Errorf("without a default class: %v", err)
	}
	if err := r.Admit(t.Context(), nil, annotated("odd", "yes")); !fault.Is(err, fault.Invalid) {
		t.Errorf("another value than true: %v", err)
	}
	if err := r.Admit(t.Context(), nil, annotated("first", "true")); err != nil {
		t.Fatal(err)
	}
	all = append(all, annotated("first", "true"))
	if name, err := Default(all); err != nil || name != "first" {
		t.Errorf("the default class is %s, %v", name, err)
	}
	if err := r.Admit(t.Context(), nil, annotated("first", "true")); err != nil {
		t.Errorf("the default class itself: %v", err)
	}
	err := r.Admit(t.Context(), nil, annotated("second", "true"))
	if !fault.Is(err, fault.Invalid) || fault.From(err).Fields[0].Path != "metadata.annotations" {
		t.Errorf("a second default class: %v", err)
	}
	all[1].Metadata.DeletionTimestamp = timestamppb.Now()
	if err := r.Admit(t.Context(), nil, annotated("second", "true")); err != nil {
		t.Errorf("beside one that is being deleted: %v", err)
	}
}
