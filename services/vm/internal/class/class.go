// Package class has the rules of a VirtualMachineClass: which processor its VMs
// see, which sizes they may have, on which nodes they run.
//
// It must not know any VM but by its spec.
package class

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/vm/internal/node"
)

const (
	typeReady = "Ready"

	// defaultAnnotation is on the class of VMs that name none.
	defaultAnnotation = "virtualmachineclass.virtualization.deckhouse.io/is-default-class"
)

// IsDefault reports whether VMs that name no class have this one.
func IsDefault(class *vmv1.VirtualMachineClass) bool {
	return class.GetMetadata().GetAnnotations()[defaultAnnotation] == "true" && class.GetMetadata().GetDeletionTimestamp() == nil
}

// Default is the name of the default class; a fault that says what to do where
// there is none.
func Default(all []*vmv1.VirtualMachineClass) (string, error) {
	for _, one := range all {
		if IsDefault(one) {
			return one.GetMetadata().GetName(), nil
		}
	}
	return "", fault.Refuse("spec.virtualMachineClassName", "FieldValueRequired",
		"no class is the default one: name a class, or annotate one with %s=true", defaultAnnotation)
}

// Shipped are the classes that every installation has.
func Shipped() []*vmv1.VirtualMachineClass {
	class := func(name string, cpu *vmv1.ClassCPU) *vmv1.VirtualMachineClass {
		return &vmv1.VirtualMachineClass{
			Metadata: &metav1.ObjectMeta{Name: name},
			Spec:     &vmv1.VirtualMachineClassSpec{Cpu: cpu},
		}
	}
	generic := class("generic", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Model, Model: "Nehalem"})
	generic.Metadata.Annotations = map[string]string{defaultAnnotation: "true"}
	return []*vmv1.VirtualMachineClass{generic, class("host", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Host})}
}

// Reconciler keeps the statuses of classes.
type Reconciler struct {
	Nodes func(ctx context.Context) ([]node.Node, error)
	// Processor is what there is for guests on every node.
	Processor Processor
	// All lists the classes.
	All func() ([]*vmv1.VirtualMachineClass, error)
	// InUse counts the VMs of a class.
	InUse func(name string) int
	Now   func() time.Time
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, class *vmv1.VirtualMachineClass) (reconcile.Result, error) {
	meta := class.GetMetadata()
	users := r.InUse(meta.GetName())
	deleting := meta.GetDeletionTimestamp() != nil
	if deleting && users == 0 {
		return reconcile.Result{Finalized: true}, nil
	}
	all, err := r.Nodes(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	nodes, err := Nodes(class, all)
	if err != nil {
		return reconcile.Result{}, err
	}
	list := condition.List{Old: class.GetStatus().GetConditions(), Generation: meta.GetGeneration(), Now: r.Now()}
	status := &vmv1.VirtualMachineClassStatus{
		Phase: vmv1.ClassPhase_Ready, ObservedGeneration: meta.GetGeneration(), MaxAllocatableResources: largest(nodes),
	}
	for _, n := range nodes {
		status.AvailableNodes = append(status.AvailableNodes, n.Name)
	}
	discovered, err := discover(class, all)
	if err != nil {
		return reconcile.Result{}, err
	}
	status.CpuFeatures = r.Processor.shown(class, discovered)
	lack := r.Processor.lack(class)
	switch discovery := class.GetSpec().GetCpu().GetType() == vmv1.ClassCPUType_Discovery; {
	case discovery && !discovered:
		status.Phase = vmv1.ClassPhase_Pending
		list.False(typeReady, "NoCpuFeaturesEnabled", "No node matches spec.cpu.discovery.nodeSelector.")
	case lack != "":
		status.Phase, status.AvailableNodes, status.MaxAllocatableResources = vmv1.ClassPhase_Pending, nil, nil
		list.False(typeReady, "NoSuitableNodesFound", lack)
	case len(nodes) == 0:
		status.Phase = vmv1.ClassPhase_Pending
		list.False(typeReady, "NoSuitableNodesFound", "No node matches spec.nodeSelector.")
	default:
		list.True(typeReady, "SuitableNodesFound", "")
	}
	discovery(&list, class, discovered)
	if deleting {
		status.Phase = vmv1.ClassPhase_Terminating
		list.True("InUse", "VirtualMachineClassInUse", fmt.Sprintf("%d VMs use the class.", users))
	}
	status.Conditions = list.Conditions()
	return reconcile.Result{Status: status}, nil
}

// Admit refuses overlapping ranges of cores, defaults that they don't allow,
// selectors that mean nothing, and a second default class.
func (r *Reconciler) Admit(_ context.Context, _, class *vmv1.VirtualMachineClass) error {
	if class == nil {
		return nil
	}
	if _, err := Selector(class); err != nil {
		return err
	}
	if err := r.admitDefault(class); err != nil {
		return err
	}
	return admitPolicies(class)
}

func (r *Reconciler) admitDefault(class *vmv1.VirtualMachineClass) error {
	value, has := class.GetMetadata().GetAnnotations()[defaultAnnotation]
	if !has {
		return nil
	}
	const path = "metadata.annotations"
	if value != "true" {
		return fault.Refuse(path, "FieldValueInvalid", "%s must be true, or not be there", defaultAnnotation)
	}
	all, err := r.All()
	if err != nil {
		return err
	}
	for _, other := range all {
		if IsDefault(other) && other.GetMetadata().GetName() != class.GetMetadata().GetName() {
			return fault.Refuse(path, "FieldValueForbidden", "class %s is the default one already: take %s from it first",
				other.GetMetadata().GetName(), defaultAnnotation)
		}
	}
	return nil
}

func admitPolicies(class *vmv1.VirtualMachineClass) error {
	policies := class.GetSpec().GetSizingPolicies()
	for i, policy := range policies {
		if dedicated := policy.GetDedicatedCores(); len(dedicated) > 0 && !slices.Contains(dedicated, false) {
			return fault.Refuse(fmt.Sprintf("spec.sizingPolicies[%d].dedicatedCores", i), "FieldValueInvalid",
				"must have false: no VM has dedicated cores, so none would be allowed")
		}
		if problem := fractionProblem(policy); problem != "" {
			return fault.Refuse(fmt.Sprintf("spec.sizingPolicies[%d].defaultCoreFraction", i), "FieldValueInvalid", "%s", problem)
		}
	}
	for i, a := range policies {
		for j, b := range policies[:i] {
			if a.GetCores().GetMin() <= b.GetCores().GetMax() && b.GetCores().GetMin() <= a.GetCores().GetMax() {
				return fault.Refuse(fmt.Sprintf("spec.sizingPolicies[%d].cores", i), "FieldValueInvalid",
					"overlaps with spec.sizingPolicies[%d].cores", j)
			}
		}
	}
	return nil
}

// fractionProblem says what is wrong with the default of a policy; empty where
// nothing is.
func fractionProblem(policy *vmv1.SizingPolicy) string {
	text := policy.GetDefaultCoreFraction()
	switch percent, err := strconv.ParseInt(text, 10, 32); {
	case text == "":
		return ""
	case text == "Auto":
		return "can't be Auto: core fractions don't change by themselves here; give a percentage, such as 20"
	case err != nil || percent < 1 || percent > 100 || text != strconv.FormatInt(percent, 10):
		return "must be a whole number from 1 to 100, not " + strconv.Quote(text)
	case len(policy.GetCoreFractions()) > 0 && !slices.Contains(policy.GetCoreFractions(), int32(percent)):
		return text + " is not in coreFractions: " + percentages(policy.GetCoreFractions())
	}
	return ""
}

// Nodes are those of all that VMs of the class may run on.
func Nodes(class *vmv1.VirtualMachineClass, all []node.Node) ([]node.Node, error) {
	selector, err := Selector(class)
	if err != nil {
		return nil, err
	}
	var nodes []node.Node
	for _, n := range all {
		if selector.Matches(labels.Set(n.AllLabels())) {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// Selector is what a class wants of a node; everything, where it is nil.
func Selector(class *vmv1.VirtualMachineClass) (labels.Selector, error) {
	return selectorOf(class.GetSpec().GetNodeSelector())
}

func selectorOf(from *vmv1.ClassNodeSelector) (labels.Selector, error) {
	selector := labels.SelectorFromSet(from.GetMatchLabels())
	operators := map[string]selection.Operator{
		string(corev1.NodeSelectorOpIn): selection.In, string(corev1.NodeSelectorOpNotIn): selection.NotIn,
		string(corev1.NodeSelectorOpExists): selection.Exists, string(corev1.NodeSelectorOpDoesNotExist): selection.DoesNotExist,
		string(corev1.NodeSelectorOpGt): selection.GreaterThan, string(corev1.NodeSelectorOpLt): selection.LessThan,
	}
	for i, expression := range from.GetMatchExpressions() {
		requirement, err := labels.NewRequirement(expression.GetKey(), operators[expression.GetOperator()], expression.GetValues())
		if err != nil {
			return nil, fault.Refuse(fmt.Sprintf("spec.nodeSelector.matchExpressions[%d]", i), "FieldValueInvalid", "%v", err)
		}
		selector = selector.Add(*requirement)
	}
	return selector, nil
}

func largest(nodes []node.Node) map[string]string {
	if len(nodes) == 0 {
		return nil
	}
	most := nodes[0]
	for _, n := range nodes[1:] {
		most.MilliCPU = max(most.MilliCPU, n.MilliCPU)
		most.MemoryBytes = max(most.MemoryBytes, n.MemoryBytes)
	}
	return most.Allocatable()
}
