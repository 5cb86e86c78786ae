package reservation

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

var (
	at        = netip.MustParseAddr("10.66.10.14")
	other     = netip.MustParseAddr("10.66.10.15")
	errWonder = errors.New("nobody expected this")
)

type (
	ipAddress    = *networkv1.VirtualMachineIPAddress
	ipReconciler = Reconciler[netip.Addr, ipAddress]
)

var kind = IPKind()

// shelf has leases of one owner, as a lease.Book would, or fails as one would.
type shelf struct {
	// held is what the owner has a lease of.
	held []netip.Addr
	fail error
}

func (s *shelf) Pick(context.Context, lease.Owner) (netip.Addr, error) {
	if s.fail != nil {
		return netip.Addr{}, s.fail
	}
	s.held = append(s.held, at)
	return at, nil
}

func (s *shelf) Take(_ context.Context, _ lease.Owner, wanted netip.Addr) error {
	if s.fail == nil {
		s.held = append(s.held, wanted)
	}
	return s.fail
}

func (s *shelf) Holds(_ lease.Owner, at netip.Addr) (bool, error) {
	return slices.Contains(s.held, at), nil
}

func (s *shelf) Find(lease.Owner) (netip.Addr, bool, error) {
	if len(s.held) == 0 {
		return netip.Addr{}, false, nil
	}
	return s.held[0], true, nil
}

func (s *shelf) Release(_ context.Context, _ lease.Owner, at netip.Addr) error {
	s.held = slices.DeleteFunc(s.held, func(a netip.Addr) bool { return a == at })
	return nil
}

// inRange is the Check of a pool that has every address.
func inRange(netip.Addr) error { return nil }

// plugs remembers who was unplugged.
type plugs struct{ unplugged []string }

func (p *plugs) Unplug(_ context.Context, uid string) error {
	p.unplugged = append(p.unplugged, uid)
	return nil
}

func automatic() *networkv1.VirtualMachineIPAddress {
	return &networkv1.VirtualMachineIPAddress{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "web", Uid: "web-uid", Generation: 3},
		Spec:     &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
	}
}

func static(at string) *networkv1.VirtualMachineIPAddress {
	ip := automatic()
	ip.Spec = &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Static, StaticIp: at}
	return ip
}

// told is an address that was told already.
func told(ip *networkv1.VirtualMachineIPAddress, at netip.Addr) *networkv1.VirtualMachineIPAddress {
	ip.Status = &networkv1.VirtualMachineIPAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: at.String()}
	return ip
}

func held(ip *networkv1.VirtualMachineIPAddress, active bool) *networkv1.VirtualMachineIPAddress {
	ip.Metadata.Holders = []*metav1.Holder{{Kind: "VirtualMachine", Namespace: "default", Name: "vm", Uid: "vm-uid", Active: active}}
	return ip
}

func deleted(ip *networkv1.VirtualMachineIPAddress) *networkv1.VirtualMachineIPAddress {
	ip.Metadata.DeletionTimestamp = timestamppb.Now()
	return ip
}

func TestStatusSaysWhatIsThere(t *testing.T) {
	taken := fault.New(fault.NotReady, kind.reason(lease.AlreadyExists), "taken")
	tests := map[string]struct {
		ip      *networkv1.VirtualMachineIPAddress
		shelf   shelf
		phase   networkv1.IPAddressPhase_Value
		address string
		bound   string
		machine string
	}{
		"any address":                      {automatic(), shelf{}, networkv1.IPAddressPhase_Bound, "10.66.10.14", "Bound", ""},
		"any, left by a process that died": {automatic(), shelf{held: []netip.Addr{other}}, networkv1.IPAddressPhase_Bound, "10.66.10.15", "Bound", ""},
		"none is left":                     {automatic(), shelf{fail: fault.New(fault.Exhausted, kind.reason(lease.Exhausted), "full")}, networkv1.IPAddressPhase_Pending, "", kind.reason(lease.Exhausted), ""},
		"a certain one":                    {static("10.66.10.14"), shelf{}, networkv1.IPAddressPhase_Bound, "10.66.10.14", "Bound", ""},
		"a certain one, taken":             {static("10.66.10.14"), shelf{fail: taken}, networkv1.IPAddressPhase_Pending, "", kind.reason(lease.AlreadyExists), ""},
		"nonsense":                         {static("10.66.10"), shelf{}, networkv1.IPAddressPhase_Pending, "", kind.reason(invalid), ""},
		"told before":                      {told(automatic(), other), shelf{held: []netip.Addr{other}}, networkv1.IPAddressPhase_Bound, "10.66.10.15", "Bound", ""},
		"told before, lease gone":          {told(automatic(), other), shelf{}, networkv1.IPAddressPhase_Bound, "10.66.10.15", "Bound", ""},
		"told before, lost":                {told(automatic(), other), shelf{fail: taken}, networkv1.IPAddressPhase_Pending, "10.66.10.15", kind.reason(lease.Lost), ""},
		"referred to":                      {held(told(automatic(), at), false), shelf{held: []netip.Addr{at}}, networkv1.IPAddressPhase_Attached, "10.66.10.14", "Bound", "vm"},
		"used":                             {held(told(automatic(), at), true), shelf{held: []netip.Addr{at}}, networkv1.IPAddressPhase_Attached, "10.66.10.14", "Bound", "vm"},
		"used, deleted":                    {deleted(held(told(automatic(), at), true)), shelf{held: []netip.Addr{at}}, networkv1.IPAddressPhase_Attached, "10.66.10.14", "Bound", "vm"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := &ipReconciler{Kind: kind, Check: inRange, Leases: &test.shelf, Ports: &plugs{}, Now: time.Now}
			result, _ := r.Reconcile(t.Context(), test.ip)
			status := result.Status.(*networkv1.VirtualMachineIPAddressStatus)
			if status.GetPhase() != test.phase || status.GetAddress() != test.address || status.GetVirtualMachineName() != test.machine {
				t.Errorf("got %s of %q in phase %s", status.GetAddress(), status.GetVirtualMachineName(), status.GetPhase())
			}
			if bound := condition.Find(status.GetConditions(), typeBound); bound.GetReason() != test.bound || bound.GetObservedGeneration() != 3 {
				t.Errorf("got condition %v, want reason %s", bound, test.bound)
			}
			attached := condition.Find(status.GetConditions(), typeAttached).GetReason()
			if (attached == "Attached") != (test.machine != "") || (attached == "VirtualMachineNotFound") != (test.machine == "") {
				t.Errorf("attached %s", attached)
			}
			if result.Finalized {
				t.Error("finalized")
			}
		})
	}
}

func TestFailureToLookChangesNothing(t *testing.T) {
	for _, failure := range []error{errWonder, fault.New(fault.Transient, "StoreUnavailable", "down")} {
		r := &ipReconciler{Kind: kind, Check: inRange, Leases: &shelf{fail: failure}, Ports: &plugs{}, Now: time.Now}
		if result, err := r.Reconcile(t.Context(), told(automatic(), at)); result.Status != nil || !errors.Is(err, failure) {
			t.Errorf("%v, %v", result, err)
		}
	}
}

func TestChangedWishGivesTheFirstAddressBack(t *testing.T) {
	leases := &shelf{held: []netip.Addr{other}}
	r := &ipReconciler{Kind: kind, Check: inRange, Leases: leases, Ports: &plugs{}, Now: time.Now}
	if _, err := r.Reconcile(t.Context(), static("10.66.10.14")); err != nil || !slices.Equal(leases.held, []netip.Addr{at}) {
		t.Errorf("holds %v, %v", leases.held, err)
	}
}

func TestDeletionUnplugsAndGivesBackOnceNobodyRuns(t *testing.T) {
	leases, ports := &shelf{held: []netip.Addr{at, other}}, &plugs{}
	r := &ipReconciler{Kind: kind, Check: inRange, Leases: leases, Ports: ports, Now: time.Now}
	if _, err := r.Reconcile(t.Context(), deleted(held(told(automatic(), at), true))); err != nil || len(leases.held) != 2 || len(ports.unplugged) != 0 {
		t.Fatalf("while a VM runs: holds %v, unplugged %v, %v", leases.held, ports.unplugged, err)
	}
	result, err := r.Reconcile(t.Context(), deleted(held(told(automatic(), at), false)))
	if err != nil || !result.Finalized || len(leases.held) != 0 || !slices.Equal(ports.unplugged, []string{"web-uid"}) {
		t.Errorf("%v, %v: holds %v, unplugged %v", result, err, leases.held, ports.unplugged)
	}
}

func TestWaitingAreThoseWhomAnotherLeaseMayHelp(t *testing.T) {
	leases := &shelf{fail: fault.New(fault.Exhausted, kind.reason(lease.Exhausted), "full")}
	r := &ipReconciler{Kind: kind, Check: inRange, Leases: leases, Ports: &plugs{}, Now: time.Now}
	_, _ = r.Reconcile(t.Context(), automatic())
	if waiting := r.Waiting(); !slices.Equal(waiting, []resource.Key{{Namespace: "default", Name: "web"}}) {
		t.Errorf("waiting: %v", waiting)
	}
	leases.fail = nil
	_, _ = r.Reconcile(t.Context(), automatic())
	if waiting := r.Waiting(); len(waiting) != 0 {
		t.Errorf("still waiting: %v", waiting)
	}
}

func TestOnlyOneMachineHasAnAddress(t *testing.T) {
	machine := func(name string, active bool) *metav1.Holder {
		return &metav1.Holder{Kind: "VirtualMachine", Namespace: "default", Name: name, Uid: name + "-uid", Active: active}
	}
	tests := map[string]struct {
		ip     *networkv1.VirtualMachineIPAddress
		holder *metav1.Holder
		reason string
	}{
		"the first":                       {told(automatic(), at), machine("vm", true), ""},
		"the first, referring":            {told(automatic(), at), machine("vm", false), ""},
		"the same again":                  {held(told(automatic(), at), true), machine("vm", true), ""},
		"the same, stopped":               {held(told(automatic(), at), true), machine("vm", false), ""},
		"a second":                        {held(told(automatic(), at), true), machine("b", true), kind.reason(AlreadyInUse)},
		"a second beside one that refers": {held(told(automatic(), at), false), machine("b", true), kind.reason(AlreadyInUse)},
		"a second that refers":            {held(told(automatic(), at), true), machine("b", false), kind.reason(AlreadyInUse)},
		"before there is an address":      {automatic(), machine("vm", true), kind.reason(NotReady)},
		"something else":                  {told(automatic(), at), &metav1.Holder{Kind: "Pod", Uid: "u"}, fault.ReasonInvalid},
		"one that would start at its end": {deleted(held(told(automatic(), at), false)), machine("vm", true), resource.ReasonTerminating},
		"one that runs on at its end":     {deleted(held(told(automatic(), at), true)), machine("vm", true), ""},
		"one that stops at its end":       {deleted(held(told(automatic(), at), true)), machine("vm", false), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := kind.AdmitHolder(test.ip, test.holder); fault.ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %q", err, test.reason)
			}
		})
	}
}

// pool has 10.66.10.14, which is free, and 10.66.10.15, which is not.
type pool struct{}

func (pool) Check(wanted netip.Addr) error {
	if wanted != at && wanted != other {
		return fault.New(fault.Invalid, kind.reason(lease.OutOfRange), "out of range")
	}
	return nil
}

func (pool) AdmitAddress(_ lease.Owner, wanted netip.Addr) error {
	if wanted == other {
		return fault.Refuse("spec.staticIP", "FieldValueDuplicate", "taken")
	}
	return nil
}

func TestAdmission(t *testing.T) {
	tests := map[string]struct {
		old, new *networkv1.VirtualMachineIPAddress
		field    string
	}{
		"any":                                 {nil, automatic(), ""},
		"a certain one":                       {nil, static("10.66.10.14"), ""},
		"taken":                               {nil, static("10.66.10.15"), "spec.staticIP"},
		"out of range":                        {nil, static("10.66.10.255"), "spec.staticIP"},
		"no address":                          {nil, static("web"), "spec.staticIP"},
		"deleted":                             {automatic(), nil, ""},
		"labels of one out of range":          {static("10.66.10.255"), static("10.66.10.255"), ""},
		"unbound to another":                  {static("10.66.10.255"), static("10.66.10.14"), ""},
		"unbound to one out of range":         {automatic(), static("10.66.10.255"), ""},
		"unbound to one that is taken":        {automatic(), static("10.66.10.15"), "spec.staticIP"},
		"bound: keep what was given":          {told(automatic(), at), static("10.66.10.14"), ""},
		"bound: another than what was given":  {told(automatic(), at), static("10.66.10.16"), "spec.staticIP"},
		"bound: another than what was wanted": {told(static("10.66.10.14"), at), static("10.66.10.16"), "spec.staticIP"},
		"bound: any instead of a certain one": {told(static("10.66.10.14"), at), automatic(), "spec.type"},
		"being deleted":                       {deleted(automatic()), static("10.66.10.14"), "spec"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := Admission[netip.Addr, ipAddress]{Kind: kind, Leases: pool{}}.Admit(t.Context(), test.old, test.new)
			if test.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if f := fault.From(err); f == nil || f.Class != fault.Invalid || f.Fields[0].Path != test.field {
				t.Errorf("got %v, want a refusal of %s", err, test.field)
			}
		})
	}
}

func TestAddressWhoseCIDRIsGoneSaysSoAndIsKept(t *testing.T) {
	shrunk := func(netip.Addr) error {
		return fault.New(fault.Invalid, kind.reason(lease.OutOfRange), "it is outside")
	}
	leases := &shelf{held: []netip.Addr{at}}
	r := &ipReconciler{Kind: kind, Check: shrunk, Leases: leases, Ports: &plugs{}, Now: time.Now}
	ip := automatic()
	ip.Status = &networkv1.VirtualMachineIPAddressStatus{Address: at.String(), Phase: networkv1.IPAddressPhase_Bound}
	result, err := r.Reconcile(t.Context(), ip)
	status, _ := result.Status.(*networkv1.VirtualMachineIPAddressStatus)
	bound := condition.Find(status.GetConditions(), "Bound")
	if !fault.Is(err, fault.NotReady) || bound.GetReason() != kind.reason(lease.OutOfRange) || status.GetAddress() != at.String() ||
		status.GetPhase() != networkv1.IPAddressPhase_Pending || len(leases.held) != 1 {
		t.Errorf("%v, %v; leases %v", status, err, leases.held)
	}
	r.Check = inRange // the CIDR is back
	result, err = r.Reconcile(t.Context(), ip)
	if status, _ := result.Status.(*networkv1.VirtualMachineIPAddressStatus); err != nil || status.GetPhase() != networkv1.IPAddressPhase_Bound {
		t.Errorf("%v, %v", status, err)
	}
}
