package placement

import (
	corev1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/go-logr/logr"

	"orlop.dev/services/vm/internal/node"
)

// Each preference gives a node up to bestScore points, times its weight: those
// of Kubernetes' default scheduler profile.
const (
	bestScore = 100

	weightTaints   = 3
	weightAffinity = 2
	weightNear     = 2
	weightSpread   = 2
	weightRoom     = 1
)

// score weighs what a VM prefers of the nodes on which it fits.
func (w *World) score(g *Guest, fitting []node.Node) map[string]int64 {
	scores := map[string]int64{}
	add := func(weight int64, points func(node.Node) int64, level func([]int64)) {
		raw := make([]int64, len(fitting))
		for i, n := range fitting {
			raw[i] = points(n)
		}
		level(raw)
		for i, n := range fitting {
			scores[n.Name] += weight * raw[i]
		}
	}
	add(weightTaints, func(n node.Node) int64 { return deterrents(g, n) }, reverse)
	add(weightAffinity, func(n node.Node) int64 { return preference(g, w.nodes[n.Name]) }, proportional)
	add(weightNear, func(n node.Node) int64 { return w.liking(g, w.nodes[n.Name]) }, stretch)
	add(weightSpread, func(n node.Node) int64 { return w.comfort(g, fitting, n) }, proportional)
	add(weightRoom, func(n node.Node) int64 { return w.room(g, n) }, func([]int64) {})
	return scores
}

// deterrents counts the taints with effect PreferNoSchedule.
func deterrents(g *Guest, n node.Node) int64 {
	var count int64
	for _, taint := range n.State.Taints {
		if taint.Effect == corev1.TaintEffectPreferNoSchedule &&
			!corev1helpers.TolerationsTolerateTaint(logr.Discard(), g.pod.Spec.Tolerations, &taint, false) {
			count++
		}
	}
	return count
}

func preference(g *Guest, n *corev1.Node) int64 {
	if g.pod.Spec.Affinity == nil {
		return 0
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(g.pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return 0 // admission refuses these
	}
	return terms.Score(n)
}

// comfort turns crowd around: the emptiest surroundings are the best.
func (w *World) comfort(g *Guest, fitting []node.Node, n node.Node) int64 {
	var most, least int64
	first := true
	for _, other := range fitting {
		crowd, comparable := w.crowd(g, w.nodes[other.Name])
		if !comparable {
			continue
		}
		if first {
			most, least, first = crowd, crowd, false
		}
		most, least = max(most, crowd), min(least, crowd)
	}
	crowd, comparable := w.crowd(g, w.nodes[n.Name])
	switch {
	case !comparable:
		return 0
	case most == 0:
		return bestScore
	}
	return bestScore * (most + least - crowd) / most
}

// room is what is left of a node, in percent, with the VM on it.
func (w *World) room(g *Guest, n node.Node) int64 {
	used := w.Used(n.Name).Add(g.Demand)
	left := func(have, taken int64) int64 {
		if have <= 0 {
			return 0
		}
		return (have - taken) * bestScore / have
	}
	return (left(n.MilliCPU, used.MilliCPU) + left(n.MemoryBytes, used.MemoryBytes)) / 2
}

// proportional makes the highest of the points bestScore.
func proportional(points []int64) {
	var most int64
	for _, p := range points {
		most = max(most, p)
	}
	if most == 0 {
		return
	}
	for i := range points {
		points[i] = points[i] * bestScore / most
	}
}

// reverse makes none bestScore, and the most 0.
func reverse(points []int64) {
	proportional(points)
	for i := range points {
		points[i] = bestScore - points[i]
	}
}

// stretch makes the lowest of the points 0, and the highest bestScore.
func stretch(points []int64) {
	most, least := points[0], points[0]
	for _, p := range points {
		most, least = max(most, p), min(least, p)
	}
	for i := range points {
		if most == least {
			points[i] = 0
			continue
		}
		points[i] = (points[i] - least) * bestScore / (most - least)
	}
}
