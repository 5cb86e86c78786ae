package machine_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
)

// wantPlan says what a change of the VM would need, line by line.
func (w *world) wantPlan(how func(*vmv1.VirtualMachine), want ...string) {
	w.t.Helper()
	wanted := proto.CloneOf(w.vm)
	how(wanted)
	refusal := fault.From(w.r.Admit(w.t.Context(), w.vm, wanted))
	planned, err := w.r.Plan(w.t.Context(), w.vm, wanted, refusal)
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, c := range planned {
		got = append(got, fmt.Sprintf("%s %s %v>%v %s", c.GetOperation(), c.GetPath(),
			c.GetCurrentValue().AsInterface(), c.GetDesiredValue().AsInterface(), c.GetNeed()))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("plan is %q, want %q", got, want)
	}
}

func TestPlanTellsWhatAChangeNeeds(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	cores := func(n int32) func(*vmv1.VirtualMachine) {
		return func(vm *vmv1.VirtualMachine) { vm.Spec.Cpu.Cores = n }
	}
	w.wantPlan(cores(2), "replace spec.cpu.cores 1>2 Nothing") // it does not run yet
	w.run()
	w.wantPlan(func(*vmv1.VirtualMachine) {})
	w.wantPlan(cores(2), "replace spec.cpu.cores 1>2 Restart")
	w.wantPlan(cores(17), "replace spec.cpu.cores 1>17 Refused")
	w.wantPlan(func(vm *vmv1.VirtualMachine) {
		vm.Spec.RunPolicy = vmv1.RunPolicy_AlwaysOn
		vm.Spec.Memory.Size = "2Gi"
		vm.Metadata.Labels = map[string]string{"app": "web"}
	}, "replace spec.memory.size 1Gi>2Gi Restart", "replace spec.runPolicy AlwaysOnUnlessStoppedManually>AlwaysOn Nothing",
		"add metadata.labels.app <nil>>web Nothing")
	w.wantPlan(func(vm *vmv1.VirtualMachine) {
		vm.Spec.BlockDeviceRefs = append(vm.Spec.BlockDeviceRefs, vm.Spec.BlockDeviceRefs[0])
	}, "add spec.blockDeviceRefs.1 <nil>>map[kind:VirtualDisk name:root] Refused")

	w.change(func(s *vmv1.VirtualMachineSpec) { s.Cpu.Cores = 4 })
	w.wantPlan(cores(1), "replace spec.cpu.cores 4>1 Nothing") // it runs so
	w.wantPlan(cores(8), "replace spec.cpu.cores 4>8 Restart")
}
