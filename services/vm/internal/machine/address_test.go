package machine_test

import (
	"testing"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/power"
)

// named asks for a MAC by its name.
func named(mac string) []*vmv1.NetworkRef {
	return []*vmv1.NetworkRef{{Type: vmv1.NetworkType_Main, VirtualMachineMacAddressName: mac}}
}

func (w *world) wantMAC(name, address string) {
	w.t.Helper()
	networks := w.vm.GetStatus().GetNetworks()
	if len(networks) != 1 || networks[0].GetVirtualMachineMacAddressName() != name || networks[0].GetMacAddress() != address ||
		networks[0].GetType() != "Main" || networks[0].GetId() != 1 || networks[0].GetIpAddress() != w.vm.GetStatus().GetIpAddress() {
		w.t.Errorf("the interfaces are %v, want MAC %s %s", networks, name, address)
	}
}

func TestMachineWithoutAMACIsMadeOneAndKeepsIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.wantMAC("web-auto", "02:00:00:00:00:01")
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	w.wantMAC("web-auto", "02:00:00:00:00:01")
	if holders := w.macs.all["web-auto"].GetMetadata().GetHolders(); w.macs.made != 1 || len(holders) != 1 || !holders[0].GetActive() {
		t.Errorf("made %d times, held by %v", w.macs.made, holders)
	}
}

func TestMachineWaitsForTheMACThatItNames(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.vm.Spec.Networks = named("mine")
	w.settle()
	const condition = "VirtualMachineMACAddressReady"
	w.wantCondition(condition, "VirtualMachineMACAddressNotReady", "VirtualMachineMACAddress mine does not exist.")
	w.macs.add("mine").Metadata.Holders = []*metav1.Holder{{Kind: "VirtualMachine", Name: "other", Uid: "other"}}
	w.settle()
	w.wantCondition(condition, "VirtualMachineMACAddressNotAvailable", "VirtualMachineMACAddress mine belongs to VirtualMachine other.")
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.macs.all["mine"].Metadata.Holders = nil
	w.run()
	w.wantCondition(condition, condition, "")
	w.wantMAC("mine", "02:00:00:00:00:01")
	if w.macs.made != 0 {
		t.Error("another one was made")
	}
}

func TestAnotherMACIsTakenAtTheNextStartAndTheOldOneLetGo(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.macs.add("mine")
	w.change(func(s *vmv1.VirtualMachineSpec) { s.Networks = named("mine") })
	w.settle()
	w.wantMAC("web-auto", "02:00:00:00:00:01")
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	w.wantMAC("mine", "02:00:00:00:00:02")
	if holders := w.macs.all["web-auto"].GetMetadata().GetHolders(); len(holders) > 0 {
		t.Errorf("the old one is held: %v", holders)
	}
}

func TestMachineThatRunsSinceBeforeMACsWereLeasedIsGivenOne(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	delete(w.macs.all, "web-auto")
	w.settle()
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	if holders := w.macs.all["web-auto"].GetMetadata().GetHolders(); len(holders) != 1 || !holders[0].GetActive() {
		t.Errorf("it is held by %v", holders)
	}
}

func TestMachineForWhichThereIsNoAddressSaysSoAndAsksAgain(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.wire.fail = map[string]error{"Allocate": fault.New(fault.Exhausted, "VirtualMachineIPAddressPoolExhausted", "All 254 addresses are taken.")}
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("VirtualMachineIPAddressReady", "VirtualMachineIPAddressNotReady", "All 254 addresses are taken.")
	if w.after == 0 {
		t.Error("it does not ask again")
	}
	w.wire.fail = nil
	w.run()
	w.wantMAC("web-auto", "02:00:00:00:00:01")
}
