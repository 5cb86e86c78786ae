package class

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
)

func TestClassHasTheProcessorThatItAsksFor(t *testing.T) {
	processor := Processor{
		Name: "QEMU", Features: []string{"avx", "sse4.2", "vmx"},
		Models: map[string][]string{"Nehalem": nil, "EPYC": {"xsavec", "topoext"}},
	}
	discovery := func(disk string) *vmv1.ClassCPU {
		return &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Discovery, Discovery: &vmv1.CPUDiscovery{
			NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"disktype": disk}},
		}}
	}
	for _, test := range []struct {
		name             string
		cpu              *vmv1.ClassCPU
		reason, message  string
		enabled, further []string
		want             CPU
	}{
		{"host", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Host}, "SuitableNodesFound", "", nil, nil, CPU{}},
		{"passthrough", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_HostPassthrough}, "SuitableNodesFound", "", nil, nil, CPU{Model: "host"}},
		{"model", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Model, Model: "Nehalem"}, "SuitableNodesFound", "", nil, nil,
			CPU{Model: "Nehalem", Exact: true}},
		{"half a model", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Model, Model: "EPYC"}, "NoSuitableNodesFound",
			"QEMU can't give the processor model EPYC: it lacks xsavec, topoext.", nil, nil, CPU{Model: "EPYC", Exact: true}},
		{"no model", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Model, Model: "Z80"}, "NoSuitableNodesFound",
			"QEMU knows no processor model Z80.", nil, nil, CPU{Model: "Z80", Exact: true}},
		{"features", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Features, Features: []string{"vmx"}}, "SuitableNodesFound", "",
			[]string{"vmx"}, []string{"avx", "sse4.2"}, CPU{Features: []string{"vmx"}, Exact: true}},
		{"features that are not there", &vmv1.ClassCPU{Type: vmv1.ClassCPUType_Features, Features: []string{"vmx", "x87"}},
			"NoSuitableNodesFound", "QEMU lacks the processor features x87.", []string{"vmx"}, []string{"avx", "sse4.2"},
			CPU{Features: []string{"vmx", "x87"}, Exact: true}},
		{"discovery", discovery("ssd"), "SuitableNodesFound", "", processor.Features, nil,
			CPU{Model: bareModel, Features: processor.Features, Exact: true}},
		{"discovery nowhere", discovery("tape"), "NoCpuFeaturesEnabled", "No node matches spec.cpu.discovery.nodeSelector.", nil, nil,
			CPU{Model: bareModel, Features: processor.Features, Exact: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			class := &vmv1.VirtualMachineClass{Metadata: &metav1.ObjectMeta{Name: "c"}, Spec: &vmv1.VirtualMachineClassSpec{Cpu: test.cpu}}
			r := &Reconciler{Nodes: told, Processor: processor, InUse: func(string) int { return 0 }, Now: time.Now}
			result, err := r.Reconcile(t.Context(), class)
			if err != nil {
				t.Fatal(err)
			}
			status := result.Status.(*vmv1.VirtualMachineClassStatus)
			ready := condition.Find(status.GetConditions(), "Ready")
			if ready.GetReason() != test.reason || ready.GetMessage() != test.message ||
				(status.GetPhase() == vmv1.ClassPhase_Ready) != (test.message == "") {
				t.Errorf("%s, %v", status.GetPhase(), ready)
			}
			if shown := status.GetCpuFeatures(); !slices.Equal(shown.GetEnabled(), test.enabled) || !slices.Equal(shown.GetNotEnabledCommon(), test.further) {
				t.Errorf("features %v", shown)
			}
			got := CPUOf(class, processor)
			if got.Model != test.want.Model || got.Exact != test.want.Exact || strings.Join(got.Features, " ") != strings.Join(test.want.Features, " ") {
				t.Errorf("processor %v, want %v", got, test.want)
			}
		})
	}
}
