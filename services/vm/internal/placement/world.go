package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/node"
)

// World is what a placement depends on. Make it with New.
type World struct {
	// Guests are the VMs that are placed.
	Guests []*Guest
	// Namespaces are the labels of namespaces, by name.
	Namespaces map[string]map[string]string

	all   []node.Node
	nodes map[string]*corev1.Node
	loads map[string]*load
	// averse are the guests that keep others away, choosy those that like or dislike
	// neighbours: few.
	averse, choosy []*Guest
}

// load is what VMs have of a node.
type load struct {
	demand node.Demand
	guests int
}

// New returns a world of nodes and the VMs on them.
func New(nodes []node.Node, guests []*Guest, namespaces map[string]map[string]string) *World {
	w := &World{
		Guests: guests, Namespaces: namespaces, all: nodes,
		nodes: map[string]*corev1.Node{}, loads: map[string]*load{},
	}
	for _, n := range nodes {
		w.nodes[n.Name] = n.Kubernetes()
	}
	for _, g := range guests {
		on := w.loads[g.Node]
		if on == nil {
			on = new(load)
			w.loads[g.Node] = on
		}
		on.demand = on.demand.Add(g.Demand)
		on.guests++
		if len(g.antiAffinity) > 0 {
			w.averse = append(w.averse, g)
		}
		if g.choosy() || len(g.affinity) > 0 {
			w.choosy = append(w.choosy, g)
		}
	}
	return w
}

// Used is what VMs have of a node.
func (w *World) Used(name string) node.Demand { return w.on(name).demand }

func (w *World) on(name string) load {
	if on := w.loads[name]; on != nil {
		return *on
	}
	return load{}
}

// Without is the world as it would be if a VM were not there.
func (w *World) Without(uid string) *World {
	others := slices.DeleteFunc(slices.Clone(w.Guests), func(g *Guest) bool { return g.UID() == uid })
	return New(w.all, others, w.Namespaces)
}

// With is the world with a VM more on a node.
func (w *World) With(g *Guest, name string) *World {
	placed := *g
	placed.Node = name
	return New(w.all, append(slices.Clone(w.Guests), &placed), w.Namespaces)
}

// Place chooses the best node for a VM that is not in the world; for one that has
// a node, another. pins are the
// nodes of things that it needs and that one node only reaches. Where none fits,
// the error says of each node why not.
func (w *World) Place(g *Guest, pins map[string]string) (string, error) {
	var fitting []node.Node
	var reasons []string
	for _, n := range w.all {
		if reason := w.misfit(g, n, pins); reason != "" {
			reasons = append(reasons, n.Name+" "+reason)
			continue
		}
		fitting = append(fitting, n)
	}
	if len(fitting) == 0 {
		return "", fault.New(fault.NotReady, "PodNotStarted", "no node fits: %s", strings.Join(reasons, "; "))
	}
	return w.best(g, fitting), nil
}

// misfit says why a VM can't be placed on a node; empty where it can.
func (w *World) misfit(g *Guest, n node.Node, pins map[string]string) string {
	kube := w.nodes[n.Name]
	for _, reason := range []func() string{
		func() string { return taken(g, kube) },
		func() string { return cordoned(g, kube) },
		func() string {
			return untolerated(g, kube, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
		},
		func() string { return Unwanted(g, n) },
		func() string { return w.full(g, n) },
		func() string { return pinned(n, pins) },
		func() string { return w.apart(g, kube) },
		func() string { return w.together(g, kube) },
		func() string { return w.uneven(g, kube) },
	} {
		if text := reason(); text != "" {
			return text
		}
	}
	return ""
}

// Unwanted says why the rules of a VM and its class, by which it chooses nodes,
// don't want one; empty where they do.
func Unwanted(g *Guest, n node.Node) string {
	kube := n.Kubernetes()
	if !g.classWant.Matches(labels.Set(kube.Labels)) {
		return fmt.Sprintf("is no node of class %s", g.class)
	}
	matches, err := g.required.Match(kube)
	switch {
	case err != nil:
		return "can't be judged: " + err.Error()
	case !matches:
		return "does not match nodeSelector or nodeAffinity"
	}
	return ""
}

// Stay says why a VM must not go on running where it is: the rules that choose
// nodes, and what Kubernetes evicts for. Neighbours and cordons don't matter: the
// API's rules between VMs are ignored during execution.
func Stay(g *Guest, n node.Node) string {
	if reason := Unwanted(g, n); reason != "" {
		return reason
	}
	return untolerated(g, n.Kubernetes(), corev1.TaintEffectNoExecute)
}

// taken says why a move can't end on a node.
func taken(g *Guest, n *corev1.Node) string {
	switch {
	case g.Node == n.Name:
		return "is where the VM runs"
	case !labels.SelectorFromSet(g.only).Matches(labels.Set(n.Labels)):
		return fmt.Sprintf("lacks the label %s, which the operation wants", g.only)
	}
	return ""
}

func cordoned(g *Guest, n *corev1.Node) string {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if !n.Spec.Unschedulable || corev1helpers.TolerationsTolerateTaint(logr.Discard(), g.pod.Spec.Tolerations, &taint, false) {
		return ""
	}
	return "is cordoned"
}

func untolerated(g *Guest, n *corev1.Node, effects ...corev1.TaintEffect) string {
	counts := func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(logr.Discard(), n.Spec.Taints, g.pod.Spec.Tolerations, counts, false)
	if !found {
		return ""
	}
	return fmt.Sprintf("has the taint %s, which is not tolerated", taint.ToString())
}

func (w *World) full(g *Guest, n node.Node) string {
	used := w.Used(n.Name)
	switch after := used.Add(g.Demand); {
	case after.MilliCPU > n.MilliCPU:
		return fmt.Sprintf("has %dm of %dm CPU left, %dm are needed", n.MilliCPU-used.MilliCPU, n.MilliCPU, g.Demand.MilliCPU)
	case after.MemoryBytes > n.MemoryBytes:
		return fmt.Sprintf("has %s of memory left, %s are needed", quantity(n.MemoryBytes-used.MemoryBytes), quantity(g.Demand.MemoryBytes))
	case w.on(n.Name).guests >= node.MostGuests:
		return fmt.Sprintf("has %d VMs, and takes no more", node.MostGuests)
	}
	return ""
}

func pinned(n node.Node, pins map[string]string) string {
	for _, what := range slices.Sorted(maps.Keys(pins)) {
		if pins[what] != n.Name {
			return "does not reach " + what + ", which is on " + pins[what]
		}
	}
	return ""
}

func quantity(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }

// best is the node with the highest score; the first by name of equals.
func (w *World) best(g *Guest, fitting []node.Node) string {
	scores := w.score(g, fitting)
	return slices.MaxFunc(fitting, func(a, b node.Node) int {
		return cmp.Or(cmp.Compare(scores[a.Name], scores[b.Name]), cmp.Compare(b.Name, a.Name))
	}).Name
}
