// Package node has the places where VMs run on this machine: simulated nodes,
// each with a part of the machine's processors and memory, more than there is
// if so configured.
//
// It decides where a VM fits. It must not know how a VM is run.
package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

const hostnameLabel = "kubernetes.io/hostname"

// Node is one place.
type Node struct {
	Name   string
	Labels map[string]string
	// MilliCPU and MemoryBytes are what VMs can have of it together.
	MilliCPU    int64
	MemoryBytes int64
}

// Demand is what a VM takes of a node.
type Demand struct {
	MilliCPU    int64
	MemoryBytes int64
}

// Simulate divides capacity among nodes of those names.
func Simulate(names []string, capacity Demand) []Node {
	nodes := make([]Node, 0, len(names))
	for _, name := range names {
		nodes = append(nodes, Node{
			Name:     name,
			Labels:   map[string]string{hostnameLabel: name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
			MilliCPU: capacity.MilliCPU / int64(len(names)), MemoryBytes: capacity.MemoryBytes / int64(len(names)),
		})
	}
	return nodes
}

// Allocatable is the node's capacity as Kubernetes writes it.
func (n Node) Allocatable() map[string]string {
	return map[string]string{
		"cpu":    resource.NewMilliQuantity(n.MilliCPU, resource.DecimalSI).String(),
		"memory": resource.NewQuantity(n.MemoryBytes, resource.BinarySI).String(),
		"pods":   "110",
	}
}

// Pick chooses the node with the most memory left among those that the VM may
// run on. used is what runs on each node now, pins the node of each thing that
// the VM needs and that is on one node only. Where none fits, the error says of
// each node why not.
func Pick(nodes []Node, spec *vmv1.VirtualMachineSpec, demand Demand, used map[string]Demand, pins map[string]string) (string, error) {
	required, err := requiredAffinity(spec)
	if err != nil {
		return "", err
	}
	var fitting []Node
	var reasons []string
	for _, n := range nodes {
		reason := misfit(n, required, demand, used[n.Name])
		if reason == "" {
			reason = pinned(n, pins)
		}
		if reason != "" {
			reasons = append(reasons, n.Name+" "+reason)
			continue
		}
		fitting = append(fitting, n)
	}
	if len(fitting) == 0 {
		return "", fault.New(fault.NotReady, "PodNotStarted", "no node fits: %s", strings.Join(reasons, "; "))
	}
	return slices.MaxFunc(fitting, func(a, b Node) int {
		return cmp.Compare(a.MemoryBytes-used[a.Name].MemoryBytes, b.MemoryBytes-used[b.Name].MemoryBytes)
	}).Name, nil
}

func pinned(n Node, pins map[string]string) string {
	for _, what := range slices.Sorted(maps.Keys(pins)) {
		if pins[what] != n.Name {
			return "does not reach " + what + ", which is on " + pins[what]
		}
	}
	return ""
}

func misfit(n Node, required nodeaffinity.RequiredNodeAffinity, demand, used Demand) string {
	matches, err := required.Match(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}})
	switch {
	case err != nil:
		return "can't be judged: " + err.Error()
	case !matches:
		return "does not match nodeSelector or nodeAffinity"
	case used.MilliCPU+demand.MilliCPU > n.MilliCPU:
		return fmt.Sprintf("has %dm of %dm CPU left, %dm are needed", n.MilliCPU-used.MilliCPU, n.MilliCPU, demand.MilliCPU)
	case used.MemoryBytes+demand.MemoryBytes > n.MemoryBytes:
		return fmt.Sprintf("has %s of memory left, %s are needed",
			quantity(n.MemoryBytes-used.MemoryBytes), quantity(demand.MemoryBytes))
	}
	return ""
}

// requiredAffinity reads the spec's rules as Kubernetes' own, whose code judges
// them.
func requiredAffinity(spec *vmv1.VirtualMachineSpec) (nodeaffinity.RequiredNodeAffinity, error) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: spec.GetNodeSelector()}}
	if affinity := spec.GetAffinity().GetNodeAffinity(); affinity != nil {
		text, err := protojson.Marshal(affinity)
		if err != nil {
			return nodeaffinity.RequiredNodeAffinity{}, err
		}
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: new(corev1.NodeAffinity)}
		if err := json.Unmarshal(text, pod.Spec.Affinity.NodeAffinity); err != nil {
			return nodeaffinity.RequiredNodeAffinity{}, err
		}
	}
	return nodeaffinity.GetRequiredNodeAffinity(pod), nil
}

func quantity(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }
