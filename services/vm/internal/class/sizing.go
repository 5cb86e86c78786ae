package class

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// Mismatch says which rules of a class a VM's size breaks, all of them; empty
// where it fits.
func Mismatch(class *vmv1.VirtualMachineClass, spec *vmv1.VirtualMachineSpec) string {
	policies := class.GetSpec().GetSizingPolicies()
	if len(policies) == 0 {
		return ""
	}
	cores := spec.GetCpu().GetCores()
	if policy := policyFor(class, cores); policy != nil {
		return strings.Join(mismatches(policy, spec), "; ")
	}
	return fmt.Sprintf("spec.cpu.cores is %d, and the class has %s", cores, ranges(policies))
}

// DefaultFraction is the coreFraction of a VM with that many cores which names
// none. What the class says then is checked as if the VM had said it.
func DefaultFraction(class *vmv1.VirtualMachineClass, cores int32) string {
	if text := policyFor(class, cores).GetDefaultCoreFraction(); text != "" {
		return text + "%"
	}
	return "100%"
}

// policyFor is the policy that holds for a number of cores; nil where none does.
func policyFor(class *vmv1.VirtualMachineClass, cores int32) *vmv1.SizingPolicy {
	for _, policy := range class.GetSpec().GetSizingPolicies() {
		if r := policy.GetCores(); cores >= r.GetMin() && cores <= r.GetMax() {
			return policy
		}
	}
	return nil
}

func ranges(policies []*vmv1.SizingPolicy) string {
	var texts []string
	for _, policy := range policies {
		texts = append(texts, fmt.Sprintf("%d to %d", policy.GetCores().GetMin(), policy.GetCores().GetMax()))
	}
	return strings.Join(texts, ", ")
}

func mismatches(policy *vmv1.SizingPolicy, spec *vmv1.VirtualMachineSpec) []string {
	var broken []string
	cores, r := spec.GetCpu().GetCores(), policy.GetCores()
	if step := r.GetStep(); step > 0 && cores != r.GetMax() && (cores-r.GetMin())%step != 0 {
		broken = append(broken, fmt.Sprintf("spec.cpu.cores is %d, and must be %d, or more in steps of %d, or %d",
			cores, r.GetMin(), step, r.GetMax()))
	}
	if fractions := policy.GetCoreFractions(); len(fractions) > 0 {
		fraction := Fraction(spec.GetCpu().GetCoreFraction())
		if !slices.Contains(fractions, fraction) {
			broken = append(broken, fmt.Sprintf("spec.cpu.coreFraction is %d%%, and must be one of %s", fraction, percentages(fractions)))
		}
	}
	memory, size := policy.GetMemory(), bytes(spec.GetMemory().GetSize())
	whole := span{"spec.memory.size", memory.GetMin(), memory.GetMax(), memory.GetStep()}
	each := span{"spec.memory.size for each core", memory.GetPerCore().GetMin(), memory.GetPerCore().GetMax(), memory.GetStep()}
	if memory.GetPerCore() != nil && memory.GetMin() == "" && memory.GetMax() == "" {
		whole.step = "" // the step is for each core's memory
	}
	broken = append(broken, whole.mismatches(size, 1)...)
	if memory.GetPerCore() == nil {
		return broken
	}
	return append(broken, each.mismatches(size, int64(max(cores, 1)))...)
}

func percentages(fractions []int32) string {
	var texts []string
	for _, fraction := range fractions {
		texts = append(texts, fmt.Sprintf("%d%%", fraction))
	}
	return strings.Join(texts, ", ")
}

// span is a range of memory sizes; what is empty does not limit.
type span struct{ subject, min, max, step string }

// mismatches says what is wrong with a size that is divided among that many
// parts. Nothing is rounded: the limits are multiplied instead. The greatest size
// is allowed whatever the step.
func (s span) mismatches(size, parts int64) []string {
	least, most, step := bytes(s.min)*parts, bytes(s.max)*parts, bytes(s.step)*parts
	var broken []string
	is := func(rule string, limit string) {
		broken = append(broken, fmt.Sprintf("%s is %s, and must %s %s", s.subject, text(size/parts), rule, limit))
	}
	if s.min != "" && size < least {
		is("be at least", s.min)
	}
	if s.max != "" && size > most {
		is("be at most", s.max)
	}
	if step > 0 && size >= least && (s.max == "" || size < most) && (size-least)%step != 0 {
		from := s.min
		if from == "" {
			from = "0"
		}
		is("go up from "+from+" in steps of", s.step)
	}
	return broken
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
