package network_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	network "orlop.dev/services/network"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
	"orlop.dev/services/network/internal/namespace"
)

const getRequest = "GET / HTTP/1.0\r\n\r\n"

func TestAutomaticAddressFromLeaseToGuestAndBack(t *testing.T) {
	r := start(t, tapOptions(t, store(t), "10.66.10.0/24"))
	ip := r.createBound(auto("web"))
	at := netip.MustParseAddr(ip.GetStatus().GetAddress())
	leaseKey := resource.Key{Name: address.LeaseName(at)}
	await(t, r.leases, leaseKey, "is Bound", func(l *networkv1.VirtualMachineIPAddressLease) bool {
		ref := l.GetSpec().GetVirtualMachineIpAddressRef()
		return l.GetStatus().GetPhase() == networkv1.LeasePhase_Bound && ref.GetName() == "web" && ref.GetNamespace() == "default"
	})

	planned := r.claim("web", machine("vm", false))
	if planned.GetTap() != "" || !strings.HasPrefix(planned.GetAddress(), at.String()+"/") {
		t.Errorf("a VM that only refers to the address got %v", planned)
	}
	r.await(key("web"), "is Attached", func(ip *networkv1.VirtualMachineIPAddress) bool {
		return ip.GetStatus().GetPhase() == networkv1.IPAddressPhase_Attached && ip.GetStatus().GetVirtualMachineName() == "vm"
	})
	port := r.claim("web", machine("vm", true))
	if again := r.claim("web", machine("vm", true)); again.GetTap() != port.GetTap() || port.GetTap() == "" || again.GetMacAddress() != planned.GetMacAddress() {
		t.Errorf("planned %v, got %v, then %v", planned, port, again)
	}
	err := r.addresses.Claim(t.Context(), key("web"), machine("other", true), &networkv1.Port{})
	if fault.ReasonOf(err) != "VirtualMachineIPAddressAlreadyInUse" {
		t.Errorf("a second VM: %v", err)
	}

	space, told := guest(t, port)
	if told != at {
		t.Errorf("DHCP says %s, the lease %s", told, at)
	}
	listener, err := space.Listen(t.Context(), "tcp", netip.AddrPortFrom(at, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, listener, "hello from the guest")
	if answer, err := r.ask("vm", 80, getRequest); err != nil || !strings.HasSuffix(answer, "hello from the guest") {
		t.Errorf("answered %q, %v", answer, err)
	}
	if _, err := r.ask("vm", 81, getRequest); fault.ReasonOf(err) != "VirtualMachineUnreachable" {
		t.Errorf("a closed port: %v", err)
	}
	if _, err := r.ask("other", 80, getRequest); fault.ReasonOf(err) != "VirtualMachineNotRunning" {
		t.Errorf("a VM that is not there: %v", err)
	}

	r.delete("web")
	if held, err := r.addresses.Get(t.Context(), key("web")); err != nil || !resource.Terminating(held) {
		t.Fatalf("deleted while in use: %v, %v", held, err)
	}
	r.release("web", "vm")
	awaitGone(t, r.addresses, key("web"))
	await(t, r.leases, leaseKey, "is Released", func(l *networkv1.VirtualMachineIPAddressLease) bool {
		ref := l.GetSpec().GetVirtualMachineIpAddressRef()
		return l.GetStatus().GetPhase() == networkv1.LeasePhase_Released && ref.GetName() == "" && ref.GetNamespace() == "default"
	})
}

func TestPortGoesWithTheClaimAndNotWithTheNextOne(t *testing.T) {
	opts := tapOptions(t, store(t), "10.66.10.0/24")
	r := start(t, opts)
	r.createBound(auto("web"))
	first := r.claim("web", machine("one", true))
	r.release("web", "one")
	if plugged(t, opts) != 0 {
		t.Error("a port is left")
	}
	second := r.claim("web", machine("two", true))
	if second.GetMacAddress() == first.GetMacAddress() || second.GetAddress() != first.GetAddress() || plugged(t, opts) != 1 {
		t.Errorf("%d ports; %v, then %v", plugged(t, opts), first, second)
	}
	r.claim("web", machine("two", false))
	if plugged(t, opts) != 0 {
		t.Error("a VM that stopped has a port")
	}
}

// plugged counts the guests that the kernel knows.
func plugged(t *testing.T, opts network.Options) int {
	t.Helper()
	return len(pluggedIDs(t, opts))
}

func pluggedIDs(t *testing.T, opts network.Options) []string {
	t.Helper()
	var ids []string
	err := look(t, opts, func(f *fabric.Fabric) {
		for _, a := range f.List() {
			ids = append(ids, a.ID)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// hasLink asks the kernel itself.
func hasLink(t *testing.T, opts network.Options, name string) bool {
	t.Helper()
	space, err := namespace.Named(opts.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	err = space.Do(func() error {
		_, err := netlink.LinkByName(name)
		return err
	})
	var missing netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &missing) {
		t.Fatal(err)
	}
	return err == nil
}

func TestNextProcessKeepsGuestsAndTakesAwayStrays(t *testing.T) {
	client := store(t)
	opts := tapOptions(t, client, "10.66.10.0/24")
	first := start(t, opts)
	web := first.createBound(auto("web"))
	before := first.claim("web", machine("vm", true))
	first.stop()

	stray := bareFabric(t, opts)
	if err := stray.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("10.66.10.7")
	if at.String() == web.GetStatus().GetAddress() {
		at = at.Next()
	}
	port, err := stray.Attach(t.Context(), fabric.Attachment{ID: "stray", MAC: address.DeriveMAC("stray", 0).Hardware(), Address: at})
	if err != nil {
		t.Fatal(err)
	}
	if err := stray.Close(); err != nil {
		t.Fatal(err)
	}

	second := start(t, opts)
	uid := web.GetMetadata().GetUid()
	// Another Fabric would make the tap anew if it saw it go.
	eventually(t, "the stray's port is gone", func() bool { return !hasLink(t, opts, port.Tap) })
	if ids := pluggedIDs(t, opts); !slices.Equal(ids, []string{uid}) {
		t.Errorf("plugged in are %v, want %s", ids, uid)
	}
	if after := second.claim("web", machine("vm", true)); after.GetTap() != before.GetTap() || after.GetAddress() != before.GetAddress() {
		t.Errorf("%v became %v", before, after)
	}
}

func TestStaticAddresses(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBound(static("web", "10.66.10.14"))
	refused := map[string]*networkv1.VirtualMachineIPAddress{
		"taken":           static("b", "10.66.10.14"),
		"the first one":   static("b", "10.66.10.0"),
		"the last one":    static("b", "10.66.10.255"),
		"of another pool": static("b", "10.66.20.77"),
		"no address":      static("b", "10.66.10.256"),
		"missing":         static("b", ""),
		"not asked for": {Metadata: auto("b").GetMetadata(), Spec: &networkv1.VirtualMachineIPAddressSpec{
			Type: networkv1.IPAddressType_Auto, StaticIp: "10.66.10.15"}},
	}
	for name, ip := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := r.addresses.Create(t.Context(), ip, resource.WriteOptions{ValidateOnly: true})
			if !fault.Is(err, fault.Invalid) || !strings.HasPrefix(fault.From(err).Fields[0].Path, "spec") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReleasedAddressIsRetakenInItsNamespaceOnly(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBound(static("web", "10.66.10.14"))
	r.delete("web")
	awaitGone(t, r.addresses, key("web"))

	stranger := static("stranger", "10.66.10.14")
	stranger.Metadata.Namespace = "elsewhere"
	refused := r.await(resource.KeyOf(r.create(stranger)), "is refused", func(ip *networkv1.VirtualMachineIPAddress) bool {
		return condition.Find(ip.GetStatus().GetConditions(), "Bound").GetReason() == "VirtualMachineIPAddressLeaseNotReady"
	})
	if refused.GetStatus().GetPhase() != networkv1.IPAddressPhase_Pending || refused.GetStatus().GetAddress() != "" {
		t.Errorf("%v", refused)
	}
	r.createBound(static("heir", "10.66.10.14"))
}

func TestAddressIsHadOnceThePoolHasOneAgain(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/30"))
	first := r.createBound(auto("a"))
	r.createBound(auto("b"))
	r.create(auto("late"))
	r.await(key("late"), "is told that there is none", func(ip *networkv1.VirtualMachineIPAddress) bool {
		return condition.Find(ip.GetStatus().GetConditions(), "Bound").GetReason() == "VirtualMachineIPAddressPoolExhausted"
	})
	r.delete("a")
	awaitGone(t, r.addresses, key("a"))
	freed := resource.Key{Name: address.LeaseName(netip.MustParseAddr(first.GetStatus().GetAddress()))}
	if _, err := r.leases.Delete(t.Context(), freed, resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(key("late"), "has the address", func(ip *networkv1.VirtualMachineIPAddress) bool {
		return ip.GetStatus().GetAddress() == first.GetStatus().GetAddress() && ip.GetStatus().GetPhase() == networkv1.IPAddressPhase_Bound
	})
}

func TestBoundAddressKeepsItsLeaseWhateverUsersDelete(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	r.createBound(static("web", "10.66.10.14"))
	leaseKey := resource.Key{Name: "ip-10-66-10-14"}
	l, err := r.leases.Delete(t.Context(), leaseKey, resource.DeleteOptions{})
	if err != nil || resource.Gone(l) {
		t.Fatalf("%v, %v", l, err)
	}
	l.Spec.VirtualMachineIpAddressRef.Namespace = "elsewhere"
	if _, err := r.leases.Update(t.Context(), l, resource.UpdateOptions{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a user gave the lease away: %v", err)
	}
	r.delete("web")
	awaitGone(t, r.addresses, key("web"))
	awaitGone(t, r.leases, leaseKey)
}

func TestUserModeForwardsPortsAndConnectFindsThem(t *testing.T) {
	r := start(t, userOptions(t, store(t), "10.66.10.0/24"))
	if mode, reason := r.service.Mode(); mode != "User" || reason == "" {
		t.Errorf("mode %q because %q", mode, reason)
	}
	r.createBound(auto("web"))
	port := r.claim("web", machine("vm", true))
	var forwarded string
	for _, forward := range port.GetForwardedPorts() {
		if forward.GetGuestPort() == 80 {
			forwarded = forward.GetHost()
		}
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", forwarded) // as QEMU does
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, listener, "hello")
	if answer, err := r.ask("vm", 80, getRequest); err != nil || !strings.HasSuffix(answer, "hello") {
		t.Errorf("answered %q, %v", answer, err)
	}
	if _, err := r.ask("vm", 443, getRequest); fault.ReasonOf(err) != "VirtualMachineUnreachable" {
		t.Errorf("a port that isn't forwarded: %v", err)
	}
}

// look finds what the kernel remembers, as the next process would.
func look(t *testing.T, opts network.Options, function func(*fabric.Fabric)) error {
	t.Helper()
	f := bareFabric(t, opts)
	err := f.Ensure(context.Background())
	function(f)
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}
