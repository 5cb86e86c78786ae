package class

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/vm/internal/node"
)

// bareModel has what every x86-64 processor has: features are added to it.
const bareModel = "qemu64"

// Processor is what guests can see of the nodes' processors. It is the same on
// all nodes, which are simulated on one machine: what they have in common needs
// no memory of an earlier look.
type Processor struct {
	// Name says for people what it is of, such as "QEMU 10.0.2 with tcg".
	Name string
	// Features are all that there are, sorted; Models the known models, each with
	// those of its features that there are not.
	Features []string
	Models   map[string][]string
}

// CPU is the processor that VMs of a class see, in QEMU's words.
type CPU struct {
	// Model is empty for what serves well, and "host" for all that there is.
	Model    string
	Features []string
	// Exact refuses to run with less than that.
	Exact bool
}

// CPUOf is the processor of a class that is Ready.
func CPUOf(class *vmv1.VirtualMachineClass, processor Processor) CPU {
	switch cpu := class.GetSpec().GetCpu(); cpu.GetType() {
	case vmv1.ClassCPUType_HostPassthrough:
		return CPU{Model: "host"}
	case vmv1.ClassCPUType_Model:
		return CPU{Model: cpu.GetModel(), Exact: true}
	case vmv1.ClassCPUType_Features:
		return CPU{Features: cpu.GetFeatures(), Exact: true}
	case vmv1.ClassCPUType_Discovery:
		return CPU{Model: bareModel, Features: processor.Features, Exact: true}
	default:
		return CPU{}
	}
}

// lack says what of a class' processor can't be had; empty where all can.
func (p Processor) lack(class *vmv1.VirtualMachineClass) string {
	cpu := class.GetSpec().GetCpu()
	switch cpu.GetType() {
	case vmv1.ClassCPUType_Model:
		missing, known := p.Models[cpu.GetModel()]
		switch {
		case !known:
			return fmt.Sprintf("%s knows no processor model %s.", p.Name, cpu.GetModel())
		case len(missing) > 0:
			return fmt.Sprintf("%s can't give the processor model %s: it lacks %s.", p.Name, cpu.GetModel(), strings.Join(missing, ", "))
		}
	case vmv1.ClassCPUType_Features:
		missing := slices.DeleteFunc(slices.Clone(cpu.GetFeatures()), p.has)
		if len(missing) > 0 {
			return fmt.Sprintf("%s lacks the processor features %s.", p.Name, strings.Join(missing, ", "))
		}
	}
	return ""
}

func (p Processor) has(feature string) bool { return slices.Contains(p.Features, feature) }

// shown is status.cpuFeatures: what guests see of a class that is made of
// features, and what else there is.
func (p Processor) shown(class *vmv1.VirtualMachineClass, discovered bool) *vmv1.CPUFeatures {
	cpu := class.GetSpec().GetCpu()
	switch {
	case cpu.GetType() == vmv1.ClassCPUType_Features:
		others := slices.DeleteFunc(slices.Clone(p.Features), func(f string) bool { return slices.Contains(cpu.GetFeatures(), f) })
		return &vmv1.CPUFeatures{Enabled: slices.DeleteFunc(slices.Clone(cpu.GetFeatures()), func(f string) bool { return !p.has(f) }), NotEnabledCommon: others}
	case cpu.GetType() == vmv1.ClassCPUType_Discovery && discovered:
		return &vmv1.CPUFeatures{Enabled: p.Features}
	}
	return nil
}

// discover reports whether there is a node whose features a class takes.
func discover(class *vmv1.VirtualMachineClass, all []node.Node) (bool, error) {
	from := class.GetSpec().GetCpu().GetDiscovery().GetNodeSelector()
	chosen := &vmv1.ClassNodeSelector{MatchLabels: from.GetMatchLabels()}
	for _, expression := range from.GetMatchExpressions() {
		chosen.MatchExpressions = append(chosen.MatchExpressions, &vmv1.NodeSelectorRequirement{
			Key: expression.GetKey(), Operator: expression.GetOperator(), Values: expression.GetValues(),
		})
	}
	selector, err := selectorOf(chosen)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(n node.Node) bool { return selector.Matches(labels.Set(n.AllLabels())) }), nil
}

func discovery(list *condition.List, class *vmv1.VirtualMachineClass, discovered bool) {
	const name = "Discovered"
	switch {
	case class.GetSpec().GetCpu().GetType() != vmv1.ClassCPUType_Discovery:
		list.False(name, "DiscoverySkip", "")
	case discovered:
		list.True(name, "DiscoverySucceeded", "")
	default:
		list.False(name, "DiscoveryFailed", "No node matches spec.cpu.discovery.nodeSelector.")
	}
}
