// Package node has the places where VMs run on this machine: simulated nodes,
// each with a part of the machine's processors and memory, more than there is
// if so configured; and what an administrator said of each.
//
// It must not know which VM runs where, nor why.
package node

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MostGuests is Kubernetes' own limit of Pods on a node.
const MostGuests = 110

// Node is one place.
type Node struct {
	Name string
	// Labels are the node's own.
	Labels map[string]string
	// MilliCPU and MemoryBytes are what VMs can have of it together.
	MilliCPU    int64
	MemoryBytes int64
	// State is what an administrator said of it.
	State State
}

// State is what an administrator says of a node.
type State struct {
	// Labels besides the node's own, which go before these.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []corev1.Taint    `json:"taints,omitempty"`
	// Unschedulable keeps new VMs away.
	Unschedulable bool `json:"unschedulable,omitempty"`
}

// Demand is what a VM takes of a node.
type Demand struct {
	MilliCPU    int64
	MemoryBytes int64
}

// Add is the sum of two.
func (d Demand) Add(other Demand) Demand {
	return Demand{MilliCPU: d.MilliCPU + other.MilliCPU, MemoryBytes: d.MemoryBytes + other.MemoryBytes}
}

// Quantities is a demand as Kubernetes writes it.
func (d Demand) Quantities() map[string]string {
	return map[string]string{
		"cpu":    resource.NewMilliQuantity(d.MilliCPU, resource.DecimalSI).String(),
		"memory": resource.NewQuantity(d.MemoryBytes, resource.BinarySI).String(),
	}
}

// Simulate divides capacity among nodes of those names.
func Simulate(names []string, capacity Demand) []Node {
	nodes := make([]Node, 0, len(names))
	for _, name := range names {
		nodes = append(nodes, Node{
			Name: name,
			Labels: map[string]string{
				corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			},
			MilliCPU: capacity.MilliCPU / int64(len(names)), MemoryBytes: capacity.MemoryBytes / int64(len(names)),
		})
	}
	return nodes
}

// Allocatable is the node's capacity as Kubernetes writes it.
func (n Node) Allocatable() map[string]string {
	all := Demand{MilliCPU: n.MilliCPU, MemoryBytes: n.MemoryBytes}.Quantities()
	all["pods"] = resource.NewQuantity(MostGuests, resource.DecimalSI).String()
	return all
}

// AllLabels are the node's own and the administrator's.
func (n Node) AllLabels() map[string]string {
	all := maps.Clone(n.State.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, n.Labels)
	return all
}

// Kubernetes is the node as Kubernetes' matching code wants it.
func (n Node) Kubernetes() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.AllLabels()},
		Spec:       corev1.NodeSpec{Taints: n.State.Taints, Unschedulable: n.State.Unschedulable},
	}
}
