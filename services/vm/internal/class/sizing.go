package class

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// Mismatch says which rule of a class a VM's size breaks; empty where it fits.
func Mismatch(class *vmv1.VirtualMachineClass, spec *vmv1.VirtualMachineSpec) string {
	policies := class.GetSpec().GetSizingPolicies()
	if len(policies) == 0 {
		return ""
	}
	cores := spec.GetCpu().GetCores()
	for _, policy := range policies {
		if covers(policy.GetCores(), cores) {
			return mismatch(policy, spec)
		}
	}
	return fmt.Sprintf("spec.cpu.cores is %d, and the class has %s", cores, ranges(policies))
}

func covers(r *vmv1.SizingCores, cores int32) bool { return cores >= r.GetMin() && cores <= r.GetMax() }

func ranges(policies []*vmv1.SizingPolicy) string {
	var texts []string
	for _, policy := range policies {
		texts = append(texts, fmt.Sprintf("%d to %d", policy.GetCores().GetMin(), policy.GetCores().GetMax()))
	}
	return strings.Join(texts, ", ")
}

func mismatch(policy *vmv1.SizingPolicy, spec *vmv1.VirtualMachineSpec) string {
	cores := policy.GetCores()
	step := max(cores.GetStep(), 1)
	if (spec.GetCpu().GetCores()-cores.GetMin())%step != 0 {
		return fmt.Sprintf("spec.cpu.cores is %d, and must be %d or more in steps of %d",
			spec.GetCpu().GetCores(), cores.GetMin(), step)
	}
	if fractions := policy.GetCoreFractions(); len(fractions) > 0 {
		fraction := Fraction(spec.GetCpu().GetCoreFraction())
		if !slices.Contains(fractions, fraction) {
			return fmt.Sprintf("spec.cpu.coreFraction is %d%%, and must be one of %v", fraction, fractions)
		}
	}
	return memoryMismatch(policy.GetMemory(), spec)
}

func memoryMismatch(policy *vmv1.SizingMemory, spec *vmv1.VirtualMachineSpec) string {
	size := bytes(spec.GetMemory().GetSize())
	perCore := size / int64(max(spec.GetCpu().GetCores(), 1))
	for _, bound := range []struct {
		subject  string
		value    int64
		min, max string
	}{
		{"spec.memory.size", size, policy.GetMin(), policy.GetMax()},
		{"spec.memory.size for each core", perCore, policy.GetPerCore().GetMin(), policy.GetPerCore().GetMax()},
	} {
		if bound.min != "" && bound.value < bytes(bound.min) {
			return fmt.Sprintf("%s is %s, and must be at least %s", bound.subject, text(bound.value), bound.min)
		}
		if bound.max != "" && bound.value > bytes(bound.max) {
			return fmt.Sprintf("%s is %s, and must be at most %s", bound.subject, text(bound.value), bound.max)
		}
	}
	if step := bytes(policy.GetStep()); step > 0 && (size-bytes(policy.GetMin()))%step != 0 {
		return fmt.Sprintf("spec.memory.size is %s, and must go in steps of %s", spec.GetMemory().GetSize(), policy.GetStep())
	}
	return ""
}

// Fraction reads a percentage such as "20%"; 100 where it is empty.
func Fraction(text string) int32 {
	var percent int32
	if _, err := fmt.Sscanf(text, "%d%%", &percent); err != nil {
		return 100
	}
	return percent
}

// bytes reads a quantity that the schema has judged; 0 where it is empty.
func bytes(text string) int64 {
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return 0
	}
	return quantity.Value()
}

func text(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }
