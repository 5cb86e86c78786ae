package cli

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	explainv1 "orlop.dev/gen/orlop/explain/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

func TestPlanIsATable(t *testing.T) {
	var out strings.Builder
	err := printPlan(&out, &vmv1.PlanVirtualMachineUpdateResponse{Changes: []*vmv1.PlannedChange{
		{Path: "spec.cpu.cores", CurrentValue: structpb.NewNumberValue(1), DesiredValue: structpb.NewNumberValue(2),
			Need: vmv1.ChangeNeed_Restart, Message: "It waits."},
		{Path: "metadata.labels.app", DesiredValue: structpb.NewStringValue(strings.Repeat("long ", 20)), Need: vmv1.ChangeNeed_Nothing},
	}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if got := strings.Fields(lines[1]); strings.Join(got, " ") != "spec.cpu.cores 1 2 Restart It waits." {
		t.Errorf("got %q", lines[1])
	}
	if len(lines[2]) > 120 || !strings.Contains(lines[2], "…") {
		t.Errorf("got %q", lines[2])
	}
}

func TestManifestOfAPlanNeedsAName(t *testing.T) {
	if _, err := readMachine(strings.NewReader("spec: {cpu: {cores: 2}}"), "-"); err == nil || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("got %v", err)
	}
	if _, err := readMachine(nil, ""); err == nil {
		t.Error("no file is taken")
	}
	// What kubectl wrote is a plan for the VM as it is now.
	text := "kind: VirtualMachine\nmetadata: {name: web, resourceVersion: '7', uid: abc, generation: 3}\nstatus: {phase: Running}\n"
	vm, err := readMachine(strings.NewReader(text), "-")
	if err != nil || vm.GetMetadata().GetResourceVersion() != "" || vm.GetMetadata().GetUid() != "" || vm.GetStatus() != nil {
		t.Errorf("got %v, %v", vm, err)
	}
}

func TestCausesAreATree(t *testing.T) {
	var out strings.Builder
	printCause(&out, &explainv1.Cause{
		Kind: "VirtualMachine", Namespace: "default", Name: "web", Phase: "Pending", State: explainv1.CauseState_Waiting,
		Findings: []*explainv1.Finding{{Condition: "BlockDevicesReady", Reason: "BlockDevicesNotReady"}},
		Causes: []*explainv1.Cause{
			{Kind: "VirtualImage", Namespace: "default", Name: "linux", Phase: "Provisioning", Progress: "41%", State: explainv1.CauseState_Waiting},
			{Kind: "VirtualMachineClass", Name: "none", State: explainv1.CauseState_Missing},
		},
	}, "", "")
	want := `VirtualMachine default/web: Pending
│ BlockDevicesReady: BlockDevicesNotReady
├─ VirtualImage default/linux: Provisioning, 41%
└─ VirtualMachineClass none: does not exist
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}
