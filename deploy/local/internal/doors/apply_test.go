package doors_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// testApply is what tools do that keep objects as a repository has them.
func (h *house) testApply(t *testing.T) {
	manifest := func(size string) string {
		return render(t, manifestOf(t, "VirtualDisk", "kept", "persistentVolumeClaim: {size: "+size+"}"))
	}
	apply := []string{"apply", "--server-side", "--validate=strict", "-f", "-"}
	if said := h.kubectl.read(t, manifest("10Mi"), append(apply, "--dry-run=server")...); !strings.Contains(said, "server dry run") {
		t.Errorf("a dry run says %q", said)
	}
	if _, err := h.kubectl.try(t, "", "get", "vd", "kept"); err == nil {
		t.Fatal("a dry run left something")
	}

	h.kubectl.read(t, manifest("10Mi"), apply...)
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Ready", "vd/kept", "--timeout="+deadline.String())
	h.eventually(t, "kept", "is done, as kstatus sees it", func(cr *unstructured.Unstructured) bool { return state(t, cr) == "Current" })
	if h.kubectl.differs(t, manifest("10Mi")) {
		t.Error("the facade changed what was applied")
	}
	before := h.get(t, "kept").GetResourceVersion()
	h.kubectl.read(t, manifest("10Mi"), apply...)
	if after := h.get(t, "kept").GetResourceVersion(); after != before {
		t.Error("to apply the same again is a change")
	}

	if !h.kubectl.differs(t, manifest("20Mi")) {
		t.Error("kubectl diff doesn't see a change")
	}
	h.kubectl.read(t, manifest("20Mi"), append(apply, "--dry-run=server")...)
	if size := text(h.get(t, "kept"), "spec", "persistentVolumeClaim", "size"); size != "10Mi" {
		t.Errorf("a dry run changed the size to %s", size)
	}
	h.kubectl.read(t, manifest("20Mi"), apply...)
	h.eventually(t, "kept", "has grown, and is done", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "capacity") == "20Mi" && state(t, cr) == "Current"
	})
	h.kubectl.run(t, "delete", "vd", "kept", "--timeout="+deadline.String())
}

// state is what kstatus (sigs.k8s.io/cli-utils) makes of an object of a kind that
// it doesn't know: the words by which tools wait. It also checks that the status
// is of the form that kstatus reads.
func state(t *testing.T, cr *unstructured.Unstructured) string {
	t.Helper()
	observed, found, err := unstructured.NestedInt64(cr.Object, "status", "observedGeneration")
	check(t, err)
	if cr.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	if !found || observed != cr.GetGeneration() {
		return "InProgress"
	}
	conditions, _, err := unstructured.NestedSlice(cr.Object, "status", "conditions")
	check(t, err)
	if len(conditions) == 0 {
		t.Errorf("%s has no conditions", cr.GetName())
	}
	seen := map[string]bool{}
	for _, item := range conditions {
		condition := item.(document)
		kind, status := condition["type"].(string), condition["status"].(string)
		if seen[kind] {
			t.Errorf("%s has two conditions %s", cr.GetName(), kind)
		}
		seen[kind] = true
		switch {
		case kind == "Stalled" && status == "True":
			return "Failed"
		case kind == "Reconciling" && status == "True", kind == "Ready" && status != "True":
			return "InProgress"
		}
		if condition["reason"] == "" || condition["lastTransitionTime"] == nil {
			t.Errorf("%s: condition %s has no reason or no time: %v", cr.GetName(), kind, condition)
		}
	}
	return "Current"
}

// testRefused is what only the service can know to be wrong.
func (h *house) testRefused(t *testing.T) {
	h.kubectl.read(t, render(t, manifestOf(t, "VirtualDisk", "made", "persistentVolumeClaim: {size: 10Mi}")), "create", "-f", "-")
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Ready", "vd/made", "--timeout="+deadline.String())
	const source = `dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: a}}`
	h.refuses(t, []refusal{
		{kind: "VirtualDisk", name: "with.dot", words: []string{"metadata.name", "dot"}},
		{kind: "VirtualDisk", name: "zero", patch: `persistentVolumeClaim: {size: "0"}`, words: []string{"spec.persistentVolumeClaim.size"}},
		{kind: "VirtualDisk", name: "made", patch: `persistentVolumeClaim: {size: 5Mi}`, words: []string{"spec.persistentVolumeClaim.size", "smaller"}},
		{kind: "VirtualDisk", name: "made", patch: `{persistentVolumeClaim: {size: 10Mi}, ` + source + `}`, words: []string{"spec.dataSource", "can't be changed"}},
		{
			kind: "VirtualDisk", name: "made", patch: `persistentVolumeClaim: {size: 10Mi, storageClassName: other}`,
			words: []string{"spec.persistentVolumeClaim.storageClassName", "can't be changed"},
		},
	})
	h.kubectl.run(t, "delete", "vd", "made", "--timeout="+deadline.String())
}
