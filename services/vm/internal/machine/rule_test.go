package machine

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/power"
)

func TestRunPolicyDecidesWhetherAVMIsWanted(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		policy              vmv1.RunPolicy_Value
		unasked, on, turned bool
	}{
		{vmv1.RunPolicy_AlwaysOn, true, true, true},
		{vmv1.RunPolicy_AlwaysOnUnlessStoppedManually, true, true, false},
		{vmv1.RunPolicy_Manual, false, true, false},
		{vmv1.RunPolicy_AlwaysOff, false, false, false},
	} {
		got := [3]bool{
			wantsOn(test.policy, &power.Record{}), wantsOn(test.policy, &power.Record{On: &yes}),
			wantsOn(test.policy, &power.Record{On: &no}),
		}
		if want := [3]bool{test.unasked, test.on, test.turned}; got != want {
			t.Errorf("%s: got %v (unasked, on, off), want %v", test.policy, got, want)
		}
	}
}

func TestRunPolicyDecidesWhetherAnEndedVMIsStartedAgain(t *testing.T) {
	for _, test := range []struct {
		policy                      vmv1.RunPolicy_Value
		shutdown, panicked, crashed bool
	}{
		{vmv1.RunPolicy_AlwaysOn, true, true, true},
		{vmv1.RunPolicy_AlwaysOnUnlessStoppedManually, false, true, true},
		{vmv1.RunPolicy_Manual, false, false, false},
		{vmv1.RunPolicy_AlwaysOff, false, false, false},
	} {
		got := [3]bool{
			restartsAfter(test.policy, Shutdown), restartsAfter(test.policy, Panicked), restartsAfter(test.policy, Crashed),
		}
		if want := [3]bool{test.shutdown, test.panicked, test.crashed}; got != want {
			t.Errorf("%s: got %v (shutdown, panicked, crashed), want %v", test.policy, got, want)
		}
	}
}

func TestChangesAreNamedAsTheGuideDoes(t *testing.T) {
	disk := func(name string) *vmv1.BlockDeviceRef {
		return &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: name}
	}
	for _, test := range []struct {
		name   string
		change func(*vmv1.VirtualMachineSpec)
		want   []change
	}{
		{"nothing", func(*vmv1.VirtualMachineSpec) {}, nil},
		{"one number", func(s *vmv1.VirtualMachineSpec) { s.Cpu.Cores = 2 },
			[]change{{"replace", "cpu.cores", float64(1), float64(2)}}},
		{"cores and fraction are one change", func(s *vmv1.VirtualMachineSpec) { s.Cpu.Cores, s.Cpu.CoreFraction = 2, "50%" },
			[]change{{"replace", "cpu", nil, nil}}},
		{"the policy applies at once", func(s *vmv1.VirtualMachineSpec) { s.RunPolicy = vmv1.RunPolicy_Manual }, nil},
		{"a disk more", func(s *vmv1.VirtualMachineSpec) { s.BlockDeviceRefs = append(s.BlockDeviceRefs, disk("b")) },
			[]change{{"add", "blockDeviceRefs.1", nil, map[string]any{"kind": "VirtualDisk", "name": "b"}}}},
		{"another disk", func(s *vmv1.VirtualMachineSpec) { s.BlockDeviceRefs[0] = disk("b") },
			[]change{{"replace", "blockDeviceRefs.0", nil, nil}}},
		{"no disks", func(s *vmv1.VirtualMachineSpec) { s.BlockDeviceRefs = nil },
			[]change{{"remove", "blockDeviceRefs", nil, nil}}},
		{"provisioning", func(s *vmv1.VirtualMachineSpec) {
			s.Provisioning = &vmv1.Provisioning{Type: vmv1.ProvisioningType_UserData, UserData: "#cloud-config"}
		}, []change{{"add", "provisioning", nil, nil}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := &vmv1.VirtualMachineSpec{
				Cpu: &vmv1.CPU{Cores: 1, CoreFraction: "100%"}, BlockDeviceRefs: []*vmv1.BlockDeviceRef{disk("a")},
			}
			applied, err := protojson.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			test.change(spec)
			got, err := changesSince(applied, spec)
			if err != nil || len(got) != len(test.want) {
				t.Fatalf("got %v, %v; want %v", got, err, test.want)
			}
			for i, want := range test.want {
				if got[i].operation != want.operation || got[i].path != want.path {
					t.Errorf("got %v, want %v", got[i], want)
				}
				if n, isNumber := want.desired.(float64); isNumber && got[i].desired != n {
					t.Errorf("got %v, want %v", got[i].desired, n)
				}
				got[i].message() // every value fits
			}
		})
	}
}
