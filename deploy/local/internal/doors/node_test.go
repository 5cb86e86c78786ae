package doors_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// testNodes does with kubectl what an administrator does to nodes, and looks at
// what the vm service makes of it.
func (h *house) testNodes(t *testing.T) {
	h.kubectl.run(t, "wait", "--for=condition=Ready", "node/node-1", "--timeout="+deadline.String())
	ssd := newObject(t, "VirtualMachineClass", "ssd", `nodeSelector: {matchLabels: {disktype: ssd}}`)
	check(t, h.kube.Create(t.Context(), ssd))
	phase := func(want string) {
		t.Helper()
		h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}="+want, "vmclass/ssd", "--timeout="+deadline.String())
	}
	phase("Pending")
	h.kubectl.run(t, "label", "node", "node-1", "disktype=ssd")
	phase("Ready")
	h.kubectl.run(t, "taint", "node", "node-1", "gpu=yes:NoSchedule")
	h.kubectl.run(t, "cordon", "node-1")
	h.eventuallyNode(t, "cordoned and tainted", func(n *vmv1.Node) bool {
		return !n.GetSchedulable() && len(n.GetTaints()) == 1 && n.GetTaints()[0].GetKey() == "gpu"
	})

	h.testDrain(t)

	h.kubectl.run(t, "uncordon", "node-1")
	h.kubectl.run(t, "taint", "node", "node-1", "gpu-")
	h.kubectl.run(t, "label", "node", "node-1", "disktype-")
	phase("Pending")
	h.eventuallyNode(t, "as it was", func(n *vmv1.Node) bool {
		return n.GetSchedulable() && len(n.GetTaints()) == 0 && len(n.GetState().GetLabels()) == 0
	})
	h.kubectl.run(t, "delete", "vmclass", "ssd", "--timeout="+deadline.String())
}

// testDrain evicts the Pod of a VM that has left, which is told so until the Pod
// is gone, and a Pod that is no VM's.
func (h *house) testDrain(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"ghost": {"orlop.dev/published": "true", "orlop.dev/virtual-machine": "ghost"}, "other": nil,
	} {
		check(t, h.kube.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
			Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{
				Name: "c", Image: "c", Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")},
				},
			}}},
		}))
	}
	h.kubectl.run(t, "drain", "node-1", "--force", "--grace-period=0", "--pod-selector=!orlop.dev/virtual-machine", "--timeout="+deadline.String())
	_, err := h.kubectl.try(t, "", "drain", "node-1", "--force", "--timeout=1s")
	if err == nil || !strings.Contains(err.Error(), "VM default/ghost has left, and its Pod goes.") {
		t.Errorf("the drain of a VM's Pod says %v", err)
	}
	if _, err := h.kubectl.try(t, "", "drain", "node-1", "--force", "--dry-run=server", "--timeout="+deadline.String()); err != nil {
		t.Errorf("a drain that only tries: %v", err)
	}
	h.kubectl.run(t, "delete", "pod", "ghost", "--force", "--grace-period=0")
	h.kubectl.run(t, "drain", "node-1", "--timeout="+deadline.String())
}

func (h *house) eventuallyNode(t *testing.T, what string, holds func(*vmv1.Node) bool) {
	t.Helper()
	poll(t, "node-1 is "+what, func() bool {
		list, err := h.nodes.ListNodes(t.Context(), &vmv1.ListNodesRequest{})
		check(t, err)
		return len(list.GetItems()) == 1 && holds(list.GetItems()[0])
	})
}
