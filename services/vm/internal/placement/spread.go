package placement

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spread is a constraint on how evenly VMs run.
// https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/
type spread struct {
	corev1.TopologySpreadConstraint
	selector labels.Selector
}

func (s spread) counts(g *Guest, o *Guest) bool {
	return o.pod.Namespace == g.pod.Namespace && s.selector.Matches(labels.Set(o.pod.Labels))
}

// spreads are g's constraints of one kind.
func (g *Guest) spreads(action corev1.UnsatisfiableConstraintAction) []spread {
	var found []spread
	for _, s := range g.spread {
		if s.WhenUnsatisfiable == action {
			found = append(found, s)
		}
	}
	return found
}

// domains counts, for each value of the constraint's label, the VMs that it
// counts. Only nodes that g's nodeSelector and nodeAffinity allow, and that have
// the labels of all constraints of the kind, make up domains (the API's default
// policies: nodeAffinity is honoured, taints are not).
func (w *World) domains(g *Guest, s spread) map[string]int {
	counts := map[string]int{}
	for _, n := range w.nodes {
		if w.eligible(g, s.WhenUnsatisfiable, n) {
			counts[n.Labels[s.TopologyKey]] += 0
		}
	}
	for _, other := range w.Guests {
		at, known := w.nodes[other.Node]
		if known && other.UID() != g.UID() && w.eligible(g, s.WhenUnsatisfiable, at) && s.counts(g, other) {
			counts[at.Labels[s.TopologyKey]]++
		}
	}
	return counts
}

func (w *World) eligible(g *Guest, action corev1.UnsatisfiableConstraintAction, n *corev1.Node) bool {
	if matches, err := g.required.Match(n); err != nil || !matches || !g.classWant.Matches(labels.Set(n.Labels)) {
		return false
	}
	for _, s := range g.spreads(action) {
		if !hasLabel(n, s.TopologyKey) {
			return false
		}
	}
	return true
}

// uneven says which DoNotSchedule constraint n would break.
func (w *World) uneven(g *Guest, n *corev1.Node) string {
	for _, s := range g.spreads(corev1.DoNotSchedule) {
		if !hasLabel(n, s.TopologyKey) {
			return "lacks the label " + s.TopologyKey + ", by which topologySpreadConstraints go"
		}
		counts := w.domains(g, s)
		least := math.MaxInt
		for _, count := range counts {
			least = min(least, count)
		}
		value := n.Labels[s.TopologyKey]
		there := counts[value]
		if s.counts(g, g) {
			there++
		}
		if there-least > int(s.MaxSkew) {
			return fmt.Sprintf("would have %d such VMs in %s=%s and %d elsewhere: topologySpreadConstraints allow a difference of %d",
				there, s.TopologyKey, value, least, s.MaxSkew)
		}
	}
	return ""
}

// crowd is how many VMs the ScheduleAnyway constraints find near n: fewer is
// better. Each label counts the more the more values it has, as in Kubernetes'
// scheduler, so that zones don't drown in hosts. False: n can't be compared.
func (w *World) crowd(g *Guest, n *corev1.Node) (int64, bool) {
	constraints := g.spreads(corev1.ScheduleAnyway)
	if len(constraints) == 0 {
		return 0, true
	}
	if !w.eligible(g, corev1.ScheduleAnyway, n) {
		return 0, false
	}
	var sum float64
	for _, s := range constraints {
		counts := w.domains(g, s)
		sum += float64(counts[n.Labels[s.TopologyKey]])*math.Log(float64(len(counts)+2)) + float64(s.MaxSkew-1)
	}
	return int64(math.Round(sum)), true
}
