package vm_test

import (
	"testing"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve/servetest"
)

func TestAVMInMaintenanceIsOffWhateverItsPolicySays(t *testing.T) {
	h := newHouse(t)
	h.addDisk("root")
	h.create("web")
	found := h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)
	service := vmv1.NewMaintenanceServiceClient(h.conn)
	begin := &vmv1.BeginMaintenanceRequest{
		Namespace: "default", Name: "web", Uid: found.GetMetadata().GetUid(),
		Holder: &metav1.Holder{Kind: "VirtualMachineRestore", Namespace: "default", Name: "back", Uid: "r-1"},
	}
	if answer, err := service.BeginMaintenance(t.Context(), begin); err != nil || answer.GetOff() {
		t.Fatalf("a running VM is off: %v, %v", answer, err)
	}
	found = h.awaitPhase("web", vmv1.VirtualMachinePhase_Stopped)
	if c := condition.Find(found.GetStatus().GetConditions(), "Maintenance"); c.GetReason() != "RestoreInProgress" {
		t.Errorf("the condition is %v", c)
	}
	if answer, err := service.BeginMaintenance(t.Context(), begin); err != nil || !answer.GetOff() {
		t.Errorf("a stopped VM is not off: %v, %v", answer, err)
	}
	h.wantHolders(false)

	other := &vmv1.BeginMaintenanceRequest{
		Namespace: "default", Name: "web", Uid: begin.GetUid(), Holder: &metav1.Holder{Kind: "VirtualMachineRestore", Name: "other", Uid: "r-2"},
	}
	if _, err := service.BeginMaintenance(t.Context(), other); !fault.Is(fault.FromStatus(err), fault.NotReady) {
		t.Errorf("two keep it off: %v", err)
	}
	for _, holder := range []string{"r-2", "r-1", "r-1"} {
		_, err := service.EndMaintenance(t.Context(), &vmv1.EndMaintenanceRequest{Uid: begin.GetUid(), HolderUid: holder})
		check(t, err)
	}
	h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)

	_, err := h.machines.Delete(t.Context(), key("web"), resource.DeleteOptions{})
	check(t, err)
	servetest.AwaitGone(t, h.machines, key("web"))
}
