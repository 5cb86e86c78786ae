package placement

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is a term of affinity or anti-affinity between VMs.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
type term struct {
	selector   labels.Selector
	namespaces []string
	// namespaceSelector selects namespaces besides; nothing where none is given.
	namespaceSelector labels.Selector
	topologyKey       string
	weight            int64
}

// newTerm reads a term of a Pod. matchLabelKeys and mismatchLabelKeys stand for
// requirements on the values that the Pod itself has, and add nothing to a term
// without a labelSelector.
func newTerm(of *corev1.Pod, from corev1.PodAffinityTerm, weight int64) (term, error) {
	wanted := from.LabelSelector.DeepCopy()
	if wanted != nil {
		wanted.MatchExpressions = append(wanted.MatchExpressions, ownLabels(of, from.MatchLabelKeys, metav1.LabelSelectorOpIn)...)
		wanted.MatchExpressions = append(wanted.MatchExpressions, ownLabels(of, from.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)...)
	}
	selector, err := metav1.LabelSelectorAsSelector(wanted)
	if err != nil {
		return term{}, err
	}
	namespaceSelector, err := metav1.LabelSelectorAsSelector(from.NamespaceSelector)
	if err != nil {
		return term{}, err
	}
	namespaces := from.Namespaces
	if len(namespaces) == 0 && from.NamespaceSelector == nil {
		namespaces = []string{of.Namespace}
	}
	return term{
		selector: selector, namespaces: namespaces, namespaceSelector: namespaceSelector,
		topologyKey: from.TopologyKey, weight: weight,
	}, nil
}

func ownLabels(of *corev1.Pod, keys []string, operator metav1.LabelSelectorOperator) []metav1.LabelSelectorRequirement {
	var requirements []metav1.LabelSelectorRequirement
	for _, key := range keys {
		if value, has := of.Labels[key]; has {
			requirements = append(requirements, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
		}
	}
	return requirements
}

// matches reports whether a term means a VM.
func (w *World) matches(t term, g *Guest) bool {
	if !slices.Contains(t.namespaces, g.pod.Namespace) && !t.namespaceSelector.Matches(w.namespaceLabels(g.pod.Namespace)) {
		return false
	}
	return t.selector.Matches(labels.Set(g.pod.Labels))
}

// namespaceLabels has the label that Kubernetes gives to every namespace, also
// of one that nobody told of.
func (w *World) namespaceLabels(namespace string) labels.Set {
	own := labels.Set{corev1.LabelMetadataName: namespace}
	return labels.Merge(own, w.Namespaces[namespace])
}

// near finds such a VM on a node with the same value of a label as n.
func (w *World) near(n *corev1.Node, means func(*Guest) bool, topologyKey string) *Guest {
	for _, other := range w.Guests {
		if w.beside(n, other, topologyKey) && means(other) {
			return other
		}
	}
	return nil
}

// beside reports whether a VM runs on a node with the same value of a label.
func (w *World) beside(n *corev1.Node, other *Guest, topologyKey string) bool {
	at, known := w.nodes[other.Node]
	return known && hasLabel(n, topologyKey) && hasLabel(at, topologyKey) && n.Labels[topologyKey] == at.Labels[topologyKey]
}

func hasLabel(n *corev1.Node, key string) bool { _, has := n.Labels[key]; return has }

// apart says which anti-affinity keeps g from n: its own, or that of a VM that
// runs already.
func (w *World) apart(g *Guest, n *corev1.Node) string {
	for _, t := range g.antiAffinity {
		if other := w.near(n, func(o *Guest) bool { return w.matches(t, o) }, t.topologyKey); other != nil {
			return fmt.Sprintf("is near VM %s (%s), from which virtualMachineAndPodAntiAffinity keeps this one", other.Name(), t.topologyKey)
		}
	}
	for _, other := range w.averse {
		for _, t := range other.antiAffinity {
			if w.beside(n, other, t.topologyKey) && w.matches(t, g) {
				return fmt.Sprintf("is near VM %s (%s), whose virtualMachineAndPodAntiAffinity keeps this one away", other.Name(), t.topologyKey)
			}
		}
	}
	return ""
}

// together says which affinity n does not meet. What counts are VMs that all
// terms mean. The first of a group that wants to be together, which finds none
// of its own kind anywhere, may run anywhere where the labels are.
func (w *World) together(g *Guest, n *corev1.Node) string {
	meansAll := func(o *Guest) bool {
		return !slices.ContainsFunc(g.affinity, func(t term) bool { return !w.matches(t, o) })
	}
	missing := ""
	for _, t := range g.affinity {
		if !hasLabel(n, t.topologyKey) {
			return "lacks the label " + t.topologyKey + ", by which virtualMachineAndPodAffinity goes"
		}
		if missing == "" && w.near(n, meansAll, t.topologyKey) == nil {
			missing = fmt.Sprintf("is not near a VM with %s (%s), as virtualMachineAndPodAffinity requires", t.selector, t.topologyKey)
		}
	}
	if missing != "" && meansAll(g) && !w.anywhere(g, meansAll) {
		return ""
	}
	return missing
}

// anywhere reports whether such a VM runs on a node with one of the labels by
// which g's affinity goes.
func (w *World) anywhere(g *Guest, means func(*Guest) bool) bool {
	for _, other := range w.Guests {
		at, known := w.nodes[other.Node]
		if known && means(other) && slices.ContainsFunc(g.affinity, func(t term) bool { return hasLabel(at, t.topologyKey) }) {
			return true
		}
	}
	return false
}

// hardAffinityWeight is how much a required affinity of a VM that runs already
// counts for those that it means: the scheduler's default.
const hardAffinityWeight = 1

// choosy reports whether a VM prefers some neighbours to others.
func (g *Guest) choosy() bool { return len(g.preferredAffinity)+len(g.preferredAntiAffinity) > 0 }

// liking is how much n is preferred for its neighbours: by g's own preferred
// terms, and by theirs.
func (w *World) liking(g *Guest, n *corev1.Node) int64 {
	others := w.choosy
	if g.choosy() {
		others = w.Guests
	}
	var sum int64
	for _, other := range others {
		count := func(terms []term, means *Guest, factor int64) {
			for _, t := range terms {
				if w.beside(n, other, t.topologyKey) && w.matches(t, means) {
					sum += factor * max(t.weight, hardAffinityWeight)
				}
			}
		}
		count(g.preferredAffinity, other, 1)
		count(g.preferredAntiAffinity, other, -1)
		count(other.preferredAffinity, g, 1)
		count(other.preferredAntiAffinity, g, -1)
		count(other.affinity, g, 1)
	}
	return sum
}
