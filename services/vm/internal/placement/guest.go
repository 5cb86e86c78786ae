// Package placement decides on which node a VM runs. It reads a VM's rules as
// those of a Pod, judges them with Kubernetes' own matching code where there is
// a library for it, and by the documented semantics of the API where there is
// none: https://kubernetes.io/docs/concepts/scheduling-eviction/.
//
// It must not know how a VM is run.
package placement

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/node"
)

// Guest is a VM as the rules see it.
type Guest struct {
	// Node is where it is placed; empty where it is not.
	Node   string
	Demand node.Demand
	// pod has identity, labels and rules, in Kubernetes' words.
	pod       *corev1.Pod
	required  nodeaffinity.RequiredNodeAffinity
	class     string
	classWant labels.Selector
	// only are labels that one move wants besides.
	only labels.Set

	affinity, antiAffinity                   []term
	preferredAffinity, preferredAntiAffinity []term
	spread                                   []spread
}

// Read reads a VM's rules, together with those of its class, which may be nil.
// The error is of a spec that admission would refuse.
func Read(vm *vmv1.VirtualMachine, of *vmv1.VirtualMachineClass) (*Guest, error) {
	meta, spec := vm.GetMetadata(), vm.GetSpec()
	g := &Guest{
		pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: types.UID(meta.GetUid()), Labels: meta.GetLabels(),
		}},
		class: of.GetMetadata().GetName(),
	}
	var err error
	if g.classWant, err = class.Selector(of); err != nil {
		return nil, err
	}
	rules := &g.pod.Spec
	rules.NodeSelector = spec.GetNodeSelector()
	for _, list := range [][]*vmv1.Toleration{spec.GetTolerations(), of.GetSpec().GetTolerations()} {
		for _, t := range list {
			toleration, err := convert[corev1.Toleration](t)
			if err != nil {
				return nil, err
			}
			rules.Tolerations = append(rules.Tolerations, toleration)
		}
	}
	if from := spec.GetAffinity().GetNodeAffinity(); from != nil {
		affinity, err := convert[corev1.NodeAffinity](from)
		if err != nil {
			return nil, err
		}
		rules.Affinity = &corev1.Affinity{NodeAffinity: &affinity}
	}
	g.required = nodeaffinity.GetRequiredNodeAffinity(g.pod)
	if err := g.readAffinity(spec.GetAffinity()); err != nil {
		return nil, err
	}
	return g, g.readSpread(spec.GetTopologySpreadConstraints())
}

func (g *Guest) readAffinity(from *vmv1.Affinity) error {
	var err error
	near, far := from.GetVirtualMachineAndPodAffinity(), from.GetVirtualMachineAndPodAntiAffinity()
	if g.affinity, g.preferredAffinity, err = g.readTerms(near); err != nil {
		return err
	}
	g.antiAffinity, g.preferredAntiAffinity, err = g.readTerms(far)
	return err
}

// readTerms reads a required term that has a weight, as the user's guide writes
// it, as a preferred one.
func (g *Guest) readTerms(from *vmv1.VirtualMachineAndPodAffinity) (required, preferred []term, err error) {
	for _, r := range from.GetRequiredDuringSchedulingIgnoredDuringExecution() {
		if r.PodAffinityTerm != nil {
			weighed, err := g.readTerm(r.GetPodAffinityTerm(), int64(r.GetWeight()))
			if err != nil {
				return nil, nil, err
			}
			preferred = append(preferred, weighed)
			continue
		}
		read, err := g.readTerm(r, 0)
		if err != nil {
			return nil, nil, err
		}
		required = append(required, read)
	}
	for _, p := range from.GetPreferredDuringSchedulingIgnoredDuringExecution() {
		weighed, err := g.readTerm(p.GetVirtualMachineAndPodAffinityTerm(), int64(p.GetWeight()))
		if err != nil {
			return nil, nil, err
		}
		preferred = append(preferred, weighed)
	}
	return required, preferred, nil
}

func (g *Guest) readTerm(from proto.Message, weight int64) (term, error) {
	read, err := convert[corev1.PodAffinityTerm](from)
	if err != nil {
		return term{}, err
	}
	return newTerm(g.pod, read, weight)
}

func (g *Guest) readSpread(constraints []*vmv1.TopologySpreadConstraint) error {
	for _, from := range constraints {
		constraint, err := convert[corev1.TopologySpreadConstraint](from)
		if err != nil {
			return err
		}
		selector, err := metav1.LabelSelectorAsSelector(constraint.LabelSelector)
		if err != nil {
			return err
		}
		g.spread = append(g.spread, spread{TopologySpreadConstraint: constraint, selector: selector})
	}
	return nil
}

// Only is the VM as a move sees it that wants a node with those labels.
func (g *Guest) Only(nodeLabels map[string]string) *Guest {
	narrowed := *g
	narrowed.only = nodeLabels
	return &narrowed
}

// Name is how people know the VM.
func (g *Guest) Name() string { return g.pod.Namespace + "/" + g.pod.Name }

// Namespace is the VM's.
func (g *Guest) Namespace() string { return g.pod.Namespace }

// BareName is its name in its namespace.
func (g *Guest) BareName() string { return g.pod.Name }

// UID is the VM's.
func (g *Guest) UID() string { return string(g.pod.UID) }

// convert reads a message as the Kubernetes type of the same JSON form.
func convert[T any](from proto.Message) (T, error) {
	var to T
	text, err := protojson.Marshal(from)
	if err != nil {
		return to, err
	}
	if err := json.Unmarshal(text, &to); err != nil {
		return to, fmt.Errorf("read %T: %w", to, err)
	}
	return to, nil
}
