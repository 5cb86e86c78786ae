package class

import (
	"strings"
	"testing"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

func TestMismatch(t *testing.T) {
	step := int32(2)
	class := &vmv1.VirtualMachineClass{Spec: &vmv1.VirtualMachineClassSpec{SizingPolicies: []*vmv1.SizingPolicy{
		{
			Cores:         &vmv1.SizingCores{Min: 1, Max: 4},
			CoreFractions: []int32{5, 10, 100},
			Memory:        &vmv1.SizingMemory{Min: "1Gi", Max: "8Gi", Step: "512Mi"},
		},
		{
			Cores:  &vmv1.SizingCores{Min: 6, Max: 17, Step: &step},
			Memory: &vmv1.SizingMemory{PerCore: &vmv1.SizingMemoryPerCore{Min: "1Gi", Max: "2Gi"}},
		},
	}}}
	for _, test := range []struct {
		cores                    int32
		fraction, memory, expect string
	}{
		{2, "10%", "2Gi", ""},
		{2, "", "1536Mi", ""},
		{2, "20%", "2Gi", "spec.cpu.coreFraction is 20%"},
		{5, "", "2Gi", "spec.cpu.cores is 5, and the class has 1 to 4, 6 to 17"},
		{7, "", "8Gi", "in steps of 2"},
		{2, "", "512Mi", "must be at least 1Gi"},
		{2, "", "16Gi", "must be at most 8Gi"},
		{2, "", "1100Mi", "steps of 512Mi"},
		{8, "", "8Gi", ""},
		{8, "", "4Gi", "for each core is 512Mi, and must be at least 1Gi"},
		{17, "", "17Gi", ""}, // the most is allowed whatever the step
		{4, "", "8Gi", ""},
		{2, "20%", "512Mi", "must be one of 5%, 10%, 100%; spec.memory.size is 512Mi"},
	} {
		got := Mismatch(class, &vmv1.VirtualMachineSpec{
			Cpu:    &vmv1.CPU{Cores: test.cores, CoreFraction: test.fraction},
			Memory: &vmv1.Memory{Size: test.memory},
		})
		if (got == "") != (test.expect == "") || !strings.Contains(got, test.expect) {
			t.Errorf("%d cores, %q, %s: got %q, want %q", test.cores, test.fraction, test.memory, got, test.expect)
		}
	}
	if got := Mismatch(&vmv1.VirtualMachineClass{}, &vmv1.VirtualMachineSpec{}); got != "" {
		t.Errorf("a class without policies refuses: %s", got)
	}
}

func TestDefaultFractionIsThatOfTheCores(t *testing.T) {
	class := &vmv1.VirtualMachineClass{Spec: &vmv1.VirtualMachineClassSpec{SizingPolicies: []*vmv1.SizingPolicy{
		{Cores: &vmv1.SizingCores{Min: 1, Max: 4}, DefaultCoreFraction: "20"},
		{Cores: &vmv1.SizingCores{Min: 5, Max: 8}},
	}}}
	for cores, want := range map[int32]string{1: "20%", 4: "20%", 5: "100%", 9: "100%"} {
		if got := DefaultFraction(class, cores); got != want {
			t.Errorf("%d cores: got %s, want %s", cores, got, want)
		}
	}
	if got := DefaultFraction(nil, 1); got != "100%" {
		t.Errorf("without a class: %s", got)
	}
}
