package network_test

import (
	"testing"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
)

const wantedMAC = "02:4f:52:4c:4f:50"

// awaitReason waits until a MAC address has no lease for that reason.
func (r *running) awaitReason(at resource.Key, reason string) {
	r.t.Helper()
	await(r.t, r.macs, at, reason, func(mac *networkv1.VirtualMachineMACAddress) bool {
		bound := condition.Find(mac.GetStatus().GetConditions(), "Bound")
		return mac.GetStatus().GetPhase() == networkv1.IPAddressPhase_Pending && bound.GetReason() == reason
	})
}

func TestGuestKeepsTheMACThatItHadBeforeThereWereLeasesOfThem(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	ip := r.createBound(auto("web"))
	if err := r.addresses.Claim(t.Context(), key("web"), machine("vm", false), &networkv1.Port{}); err != nil {
		t.Fatal(err)
	}
	made := card("vm", "")
	made.Metadata.Labels = map[string]string{"virtualization.deckhouse.io/virtual-machine-uid": "vm-uid"}
	want := address.DeriveMAC(ip.GetMetadata().GetUid(), 0)
	if mac := r.createBoundMAC(made); mac.GetStatus().GetAddress() != want.String() {
		t.Errorf("got %s, want %s", mac.GetStatus().GetAddress(), want)
	}
	await(t, r.macLeases, resource.Key{Name: address.MACLeaseName(want)}, "is Bound", func(l *networkv1.VirtualMachineMACAddressLease) bool {
		return l.GetStatus().GetPhase() == networkv1.LeasePhase_Bound && l.GetSpec().GetVirtualMachineMacAddressRef().GetName() == "vm"
	})
}

func TestNextMACIsTakenWhereTheFirstIsAnothers(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	ip := r.createBound(auto("web"))
	uid := ip.GetMetadata().GetUid()
	r.createBoundMAC(card("thief", address.DeriveMAC(uid, 0).String()))
	if err := r.addresses.Claim(t.Context(), key("web"), machine("vm", false), &networkv1.Port{}); err != nil {
		t.Fatal(err)
	}
	made := card("vm", "")
	made.Metadata.Labels = map[string]string{"virtualization.deckhouse.io/virtual-machine-uid": "vm-uid"}
	if mac := r.createBoundMAC(made); mac.GetStatus().GetAddress() != address.DeriveMAC(uid, 1).String() {
		t.Errorf("got %s", mac.GetStatus().GetAddress())
	}
}

func TestPortHasTheLeasedMACAndThereIsNoneWithout(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBound(auto("web"))
	err := r.addresses.Claim(t.Context(), key("web"), machine("vm", true), &networkv1.Port{})
	if fault.ReasonOf(err) != "VirtualMachineMACAddressNotReady" {
		t.Fatalf("a VM that has claimed no MAC: %v", err)
	}
	r.createBoundMAC(card("vm", wantedMAC))
	if port := r.claim("web", machine("vm", true)); port.GetMacAddress() != wantedMAC {
		t.Errorf("the port has %s", port.GetMacAddress())
	}
	await(t, r.macs, key("vm"), "is Attached", func(mac *networkv1.VirtualMachineMACAddress) bool {
		return mac.GetStatus().GetPhase() == networkv1.IPAddressPhase_Attached && mac.GetStatus().GetVirtualMachineName() == "vm"
	})
	err = r.macs.Claim(t.Context(), key("vm"), machine("other", true), &networkv1.Port{})
	if fault.ReasonOf(err) != "VirtualMachineMACAddressAlreadyInUse" {
		t.Errorf("a second VM: %v", err)
	}
	if _, err := r.macs.Delete(t.Context(), key("vm"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if held, err := r.macs.Get(t.Context(), key("vm")); err != nil || !resource.Terminating(held) {
		t.Errorf("deleted while in use: %v, %v", held, err)
	}
	if err := r.macs.Release(t.Context(), key("vm"), "vm-uid"); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, r.macs, key("vm"))
}

func TestMACThatWasGivenBackIsKeptForItsNamespace(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBoundMAC(card("first", wantedMAC))
	if _, err := r.macs.Delete(t.Context(), key("first"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, r.macs, key("first"))
	stranger := card("second", wantedMAC)
	stranger.Metadata.Namespace = "elsewhere"
	r.awaitReason(r.createMAC(stranger), "VirtualMachineMACAddressLeaseNotReady")
	heir := r.createBoundMAC(card("second", "02-4F-52-4C-4F-50"))
	if heir.GetStatus().GetAddress() != wantedMAC {
		t.Errorf("got %s", heir.GetStatus().GetAddress())
	}
}

func TestMACsThatNobodyMayHaveAreRefused(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBoundMAC(card("first", wantedMAC))
	refused := map[string]*networkv1.VirtualMachineMACAddress{
		"spec.address: taken":        card("second", wantedMAC),
		"spec.address: a group's":    card("second", "03:4f:52:4c:4f:50"),
		"spec.address: all zeros":    card("second", "00:00:00:00:00:00"),
		"spec.address: not an EUI48": card("second", "02:4f:52:4c:4f"),
	}
	for name, mac := range refused {
		_, err := r.macs.Create(t.Context(), mac, resource.WriteOptions{})
		if f := fault.From(err); f == nil || f.Class != fault.Invalid || f.Fields[0].Path != "spec.address" {
			t.Errorf("%s: %v", name, err)
		}
	}
	changed, err := r.macs.Get(t.Context(), key("first"))
	if err != nil {
		t.Fatal(err)
	}
	changed.Spec.Address = "02:4f:52:4c:4f:51"
	if _, err := r.macs.Update(t.Context(), changed, resource.UpdateOptions{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bound one is changed: %v", err)
	}
	_, err = r.macLeases.Create(t.Context(), &networkv1.VirtualMachineMACAddressLease{
		Metadata: card("mine", "").GetMetadata(), Spec: &networkv1.VirtualMachineMACAddressLeaseSpec{},
	}, resource.WriteOptions{})
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("a lease of no MAC: %v", err)
	}
}
