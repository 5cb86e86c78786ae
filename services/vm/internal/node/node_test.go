package node

import (
	"strings"
	"testing"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

const gib = 1 << 30

func TestPick(t *testing.T) {
	nodes := Simulate([]string{"a", "b"}, Demand{MilliCPU: 8000, MemoryBytes: 8 * gib})
	nodes[1].Labels["disktype"] = "ssd"
	ssd := &vmv1.VirtualMachineSpec{NodeSelector: map[string]string{"disktype": "ssd"}}
	affinity := &vmv1.VirtualMachineSpec{Affinity: &vmv1.Affinity{NodeAffinity: &vmv1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &vmv1.NodeSelector{NodeSelectorTerms: []*vmv1.NodeSelectorTerm{{
			MatchExpressions: []*vmv1.NodeSelectorRequirement{{Key: "disktype", Operator: "NotIn", Values: []string{"ssd"}}},
		}}},
	}}}
	small := Demand{MilliCPU: 1000, MemoryBytes: gib}
	for _, test := range []struct {
		reason  string
		spec    *vmv1.VirtualMachineSpec
		demand  Demand
		used    map[string]Demand
		pins    map[string]string
		want    string
		problem string
	}{
		{"the emptier node", nil, small, map[string]Demand{"a": small}, nil, "b", ""},
		{"the selector decides, however full", ssd, small, map[string]Demand{"b": small}, nil, "b", ""},
		{"affinity is Kubernetes' own", affinity, small, map[string]Demand{"a": small}, nil, "a", ""},
		{"too large for any node", nil, Demand{MemoryBytes: 5 * gib}, nil, nil, "", "a has 4Gi of memory left, 5Gi are needed"},
		{"no processors left", nil, small, map[string]Demand{"a": {MilliCPU: 4000}, "b": {MilliCPU: 3500}}, nil, "", "b has 500m of 4000m CPU left"},
		{"nothing matches", &vmv1.VirtualMachineSpec{NodeSelector: map[string]string{"x": "y"}}, small, nil, nil, "",
			"a does not match nodeSelector or nodeAffinity; b does not"},
		{"its disk is there", nil, small, map[string]Demand{"a": small}, map[string]string{"VirtualDisk root": "a"}, "a", ""},
		{"two disks, two nodes", nil, small, nil, map[string]string{"VirtualDisk x": "a", "VirtualDisk y": "b"}, "",
			"a does not reach VirtualDisk y, which is on b; b does not reach VirtualDisk x, which is on a"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			got, err := Pick(nodes, test.spec, test.demand, test.used, test.pins)
			if got != test.want {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
			if test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("the error %v does not say %q", err, test.problem)
			}
		})
	}
}
