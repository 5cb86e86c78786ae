package placement

import (
	"slices"

	"orlop.dev/services/vm/internal/node"
)

// unevenPercent is by how much of its memory the fullest node must be fuller than
// the emptiest for a move to be worth it.
const unevenPercent = 20

// Step is one move of a VM to another node.
type Step struct {
	Guest *Guest
	To    string
}

// Even lists moves after which the nodes are filled more evenly. Each is of a VM
// that may move, to a node on which all its rules let it run, and leaves the
// fuller of the two nodes less full than before.
func (w *World) Even(may func(*Guest) bool) []Step {
	var steps []Step
	for range len(w.Guests) {
		step, found := w.step(may)
		if !found {
			break
		}
		steps = append(steps, step)
		w = w.Without(step.Guest.UID()).With(step.Guest, step.To)
		moved := step.Guest.UID()
		before := may
		may = func(g *Guest) bool { return g.UID() != moved && before(g) }
	}
	return steps
}

func (w *World) step(may func(*Guest) bool) (Step, bool) {
	if len(w.all) < 2 {
		return Step{}, false
	}
	fullest := slices.MaxFunc(w.all, func(a, b node.Node) int { return w.filled(a) - w.filled(b) })
	guests := slices.Clone(w.Guests)
	slices.SortStableFunc(guests, func(a, b *Guest) int { return int(b.Demand.MemoryBytes - a.Demand.MemoryBytes) })
	for _, g := range guests {
		if g.Node != fullest.Name || !may(g) {
			continue
		}
		without := w.Without(g.UID())
		to, err := without.Place(g, nil)
		if err != nil {
			continue
		}
		after := without.With(g, to)
		target := w.all[slices.IndexFunc(w.all, func(n node.Node) bool { return n.Name == to })]
		if w.filled(fullest)-w.filled(target) >= unevenPercent && after.filled(target) < w.filled(fullest) {
			return Step{Guest: g, To: to}, true
		}
	}
	return Step{}, false
}

// filled is how much of a node's memory VMs have, in percent.
func (w *World) filled(n node.Node) int {
	if n.MemoryBytes <= 0 {
		return 0
	}
	return int(w.Used(n.Name).MemoryBytes * bestScore / n.MemoryBytes)
}
