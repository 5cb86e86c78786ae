package network_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
)

// both are the addresses of a VM, any ones.
func both(name string) *networkv1.MachineAddresses {
	return &networkv1.MachineAddresses{VirtualMachineIpAddress: auto(name), VirtualMachineMacAddress: card(name, "")}
}

func (r *running) allocate(machines ...*networkv1.MachineAddresses) ([]*networkv1.MachineAddresses, error) {
	resp, err := r.allocator.AllocateAddresses(r.t.Context(), &networkv1.AllocateAddressesRequest{Machines: machines})
	return resp.GetMachines(), err
}

// nothing fails the test if there is any address, or a lease.
func (r *running) nothing() {
	r.t.Helper()
	ips, err := r.addresses.List(r.t.Context(), resource.ListOptions{})
	check(r.t, err)
	macs, err := r.macs.List(r.t.Context(), resource.ListOptions{})
	check(r.t, err)
	leases, err := r.leases.List(r.t.Context(), resource.ListOptions{})
	check(r.t, err)
	macLeases, err := r.macLeases.List(r.t.Context(), resource.ListOptions{})
	check(r.t, err)
	if n := len(ips.Items) + len(macs.Items) + len(leases.Items) + len(macLeases.Items); n > 0 {
		r.t.Errorf("%d objects are there: %v %v %v %v", n, ips.Items, macs.Items, leases.Items, macLeases.Items)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAddressesOfSeveralMachinesAreThereAtOnce(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	static := &networkv1.MachineAddresses{VirtualMachineIpAddress: static("c", "10.66.10.77"), VirtualMachineMacAddress: card("c", wantedMAC)}
	given, err := r.allocate(both("a"), both("b"), static)
	check(t, err)
	versions := map[string]bool{}
	for _, m := range given {
		ip, mac := m.GetVirtualMachineIpAddress(), m.GetVirtualMachineMacAddress()
		if ip.GetStatus().GetPhase() != networkv1.IPAddressPhase_Bound || mac.GetStatus().GetPhase() != networkv1.IPAddressPhase_Bound {
			t.Errorf("%v, %v", ip, mac)
		}
		versions[ip.GetMetadata().GetResourceVersion()], versions[mac.GetMetadata().GetResourceVersion()] = true, true
	}
	if len(versions) != 1 || versions[""] {
		t.Errorf("written as %v", versions)
	}
	if ip, mac := given[2].GetVirtualMachineIpAddress(), given[2].GetVirtualMachineMacAddress(); ip.GetStatus().GetAddress() != "10.66.10.77" || mac.GetStatus().GetAddress() != wantedMAC {
		t.Errorf("%v, %v", ip, mac)
	}
	// Nobody takes them for those of nobody.
	port := r.claim("a", machine("a", true))
	if mac := given[0].GetVirtualMachineMacAddress().GetStatus().GetAddress(); port.GetMacAddress() != mac {
		t.Errorf("the port has %s, want %s", port.GetMacAddress(), mac)
	}
	for _, m := range given {
		at, err := address.ParseMAC(m.GetVirtualMachineMacAddress().GetStatus().GetAddress())
		check(t, err)
		await(t, r.macLeases, resource.Key{Name: address.MACLeaseName(at)}, "is Bound", func(l *networkv1.VirtualMachineMACAddressLease) bool {
			return l.GetStatus().GetPhase() == networkv1.LeasePhase_Bound
		})
	}
}

func TestAllocationIsOfAllOrNothing(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/29"))
	many := func(n int) (all []*networkv1.MachineAddresses) {
		for i := range n {
			all = append(all, both(fmt.Sprint("m", i)))
		}
		return all
	}
	withStatic := func(at string) *networkv1.MachineAddresses {
		return &networkv1.MachineAddresses{VirtualMachineIpAddress: static("s"+at, at)}
	}
	for name, test := range map[string]struct {
		machines []*networkv1.MachineAddresses
		class    fault.Class
	}{
		"more than there are":    {many(7), fault.Exhausted},
		"none":                   {nil, fault.Invalid},
		"too many":               {many(33), fault.Invalid},
		"out of range":           {append(many(2), withStatic("10.66.20.7")), fault.Invalid},
		"the same address twice": {append(many(2), withStatic("10.66.10.3"), &networkv1.MachineAddresses{VirtualMachineIpAddress: static("other", "10.66.10.3")}), fault.NotReady},
		"the same name twice":    {append(many(2), many(1)...), fault.Invalid},
		"a wrong name":           {append(many(2), both("A_B")), fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.allocate(test.machines...); !fault.Is(err, test.class) {
				t.Errorf("got %v, want class %s", err, test.class)
			}
			r.nothing()
		})
	}
	if _, err := r.allocate(many(2)...); err != nil {
		t.Fatal(err)
	}
	if _, err := r.allocate(both("new"), both("m1")); !fault.Is(err, fault.Exists) {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := r.addresses.Get(t.Context(), key("new")); !fault.Is(err, fault.NotFound) {
		t.Errorf("the other one is there: %v", err)
	}
}

func TestConcurrentAllocationsGiveNoAddressTwice(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/26")) // has 62
	var mu sync.Mutex
	var seen []string
	var group errgroup.Group
	for caller := range 10 {
		group.Go(func() error {
			var machines []*networkv1.MachineAddresses
			for i := range 6 {
				machines = append(machines, both(fmt.Sprintf("m%d-%d", caller, i)))
			}
			given, err := r.allocate(machines...)
			mu.Lock()
			defer mu.Unlock()
			for _, m := range given {
				seen = append(seen, m.GetVirtualMachineIpAddress().GetStatus().GetAddress(), m.GetVirtualMachineMacAddress().GetStatus().GetAddress())
			}
			return err
		})
	}
	check(t, group.Wait())
	slices.Sort(seen)
	if n := len(slices.Compact(slices.Clone(seen))); n != 120 {
		t.Errorf("%d different ones of %d: %v", n, len(seen), seen)
	}
}

func TestAllocationTakesWhatItsNamespaceGaveBack(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBound(static("old", "10.66.10.77"))
	r.delete("old")
	awaitGone(t, r.addresses, key("old"))
	stranger := static("new", "10.66.10.77")
	stranger.Metadata.Namespace = "elsewhere"
	if _, err := r.allocate(both("a"), &networkv1.MachineAddresses{VirtualMachineIpAddress: stranger}); !fault.Is(err, fault.NotReady) {
		t.Errorf("another namespace: %v", err)
	}
	given, err := r.allocate(both("a"), &networkv1.MachineAddresses{VirtualMachineIpAddress: static("new", "10.66.10.77")})
	check(t, err)
	if at := given[1].GetVirtualMachineIpAddress().GetStatus().GetAddress(); at != "10.66.10.77" {
		t.Errorf("got %s", at)
	}
	await(t, r.leases, resource.Key{Name: "ip-10-66-10-77"}, "is its", func(l *networkv1.VirtualMachineIPAddressLease) bool {
		return l.GetStatus().GetPhase() == networkv1.LeasePhase_Bound && l.GetSpec().GetVirtualMachineIpAddressRef().GetName() == "new"
	})
}
