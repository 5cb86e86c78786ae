package fabric

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"orlop.dev/services/network/internal/address"
)

func TestNewRefusesBadOptions(t *testing.T) {
	pool, err := address.ParsePool([]string{"10.66.10.0/24"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]Options{
		"no pool":     {},
		"long bridge": {Pool: pool, Bridge: "a-very-long-name"},
		"bad bridge":  {Pool: pool, Bridge: "br/0"},
		"small MTU":   {Pool: pool, MTU: 100},
		"IPv6 DNS":    {Pool: pool, DNS: []netip.Addr{netip.MustParseAddr("fd00::1")}},
	} {
		var refused *OptionError
		if _, err := New(options); !errors.As(err, &refused) {
			t.Errorf("%s: %v, want an *OptionError", name, err)
		}
	}
}

func TestAttachMakesOneTapAndIsIdempotent(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	port := attach(t, f, attachment("web", "10.66.10.14"))
	if port.Mode != Tap || port.Address.String() != "10.66.10.14/23" || port.Gateway.String() != "10.66.10.255" ||
		port.MTU != 1400 || port.Namespace != f.space.Path() || len(port.Tap) > 15 {
		t.Errorf("port is %+v", port)
	}
	first, found := device(t, f, port.Tap)
	bridge, _ := device(t, f, DefaultBridge)
	tap, isTap := first.(*netlink.Tuntap)
	if !found || !isTap || tap.Flags&netlink.TUNTAP_VNET_HDR == 0 || tap.NonPersist || tap.Attrs().MTU != 1400 ||
		tap.Attrs().MasterIndex != bridge.Attrs().Index || tap.Attrs().Flags&net.FlagUp == 0 {
		t.Fatalf("tap is %+v", first)
	}
	attach(t, f, attachment("web", "10.66.10.14"))
	if again, _ := device(t, f, port.Tap); again.Attrs().Index != first.Attrs().Index {
		t.Error("the tap was made anew")
	}
	if listed := f.List(); len(listed) != 1 || listed[0].ID != "web" {
		t.Errorf("List() = %v", listed)
	}
}

func TestAttachRefusesWhatCannotBe(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	attach(t, f, attachment("web", "10.66.10.14"))
	change := func(alter func(*Attachment)) Attachment {
		a := attachment("db", "10.66.10.15")
		alter(&a)
		return a
	}
	var option *OptionError
	var misfit *address.MisfitError
	var conflict *ConflictError
	for name, test := range map[string]struct {
		wanted Attachment
		class  any
	}{
		"no ID":           {change(func(a *Attachment) { a.ID = "" }), &option},
		"ID with a space": {change(func(a *Attachment) { a.ID = "a b" }), &option},
		"no MAC":          {change(func(a *Attachment) { a.MAC = nil }), &option},
		"multicast MAC":   {change(func(a *Attachment) { a.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 0} }), &option},
		"no address":      {change(func(a *Attachment) { a.Address = netip.Addr{} }), &option},
		"bad hostname":    {change(func(a *Attachment) { a.Hostname = "a b" }), &option},
		"outside":         {attachment("db", "10.67.0.1"), &misfit},
		"gateway":         {attachment("db", "10.66.10.255"), &misfit},
		"address taken":   {attachment("db", "10.66.10.14"), &conflict},
		"MAC taken":       {change(func(a *Attachment) { a.MAC = card("web") }), &conflict},
	} {
		if _, err := f.Attach(context.Background(), test.wanted); !errors.As(err, test.class) {
			t.Errorf("%s: %v, want a %T", name, err, test.class)
		}
	}
	if conflict.ID != "web" {
		t.Errorf("the conflict names %q", conflict.ID)
	}
	if len(f.List()) != 1 {
		t.Errorf("List() = %v", f.List())
	}
}

func TestAttachNeedsEnsure(t *testing.T) {
	f := newFabric(t, freshOptions(t, "10.66.10.0/24"))
	if _, err := f.Attach(context.Background(), attachment("web", "10.66.10.14")); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
}

func TestDetachRemovesTheTapAndIsIdempotent(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	port := attach(t, f, attachment("web", "10.66.10.14"))
	for range 2 {
		if err := f.Detach(context.Background(), "web"); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := device(t, f, port.Tap); found || len(f.List()) != 0 {
		t.Errorf("tap is there: %t, List() = %v", found, f.List())
	}
	attach(t, f, attachment("db", "10.66.10.14")) // The address is free again.
}

func TestNextProcessKeepsTheTapThatAGuestHolds(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	f := started(t, options)
	wanted := attachment("web", "10.66.10.14")
	port := attach(t, f, wanted)
	before, _ := device(t, f, port.Tap)
	hold(t, f, port.Tap)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	next := started(t, options)
	listed := next.List()
	if len(listed) != 1 || listed[0].note() != wanted.note() {
		t.Fatalf("List() = %v, want %v", listed, wanted)
	}
	if again := attach(t, next, wanted); again.Tap != port.Tap {
		t.Errorf("tap is %s, was %s", again.Tap, port.Tap)
	}
	after, _ := device(t, next, port.Tap)
	if after.Attrs().Index != before.Attrs().Index {
		t.Error("the tap was made anew under its guest")
	}
	err := next.space.Do(func() error { _, err := openTap(port.Tap); return err })
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("opening the tap gives %v: its guest has lost it", err)
	}
}

func TestEnsureRepairsWhatSomebodyRemoved(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	port := attach(t, f, attachment("web", "10.66.10.14"))
	for _, removed := range []string{DefaultBridge, port.Tap} {
		link, _ := device(t, f, removed)
		inside(t, f, func() error { return netlink.LinkDel(link) })
		if err := f.Ensure(context.Background()); err != nil {
			t.Fatal(err)
		}
		bridge, _ := device(t, f, DefaultBridge)
		tap, found := device(t, f, port.Tap)
		if !found || tap.Attrs().MasterIndex != bridge.Attrs().Index {
			t.Errorf("without %s: tap is there: %t", removed, found)
		}
		guest := plugIn(t, f, card("web"))
		if lease := guest.lease(t, card("web")); !lease.Equal(net.IPv4(10, 66, 10, 14)) {
			t.Errorf("without %s: DHCP gives %s", removed, lease)
		}
		inside(t, f, func() error {
			addresses, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
			if len(addresses) != 1 {
				t.Errorf("without %s: the bridge has %v", removed, addresses)
			}
			return err
		})
		if err := guest.Delete(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEnsureFollowsAChangeOfThePool(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24", "10.66.20.0/24")
	if err := started(t, options).Close(); err != nil {
		t.Fatal(err)
	}
	pool, err := address.ParsePool([]string{"10.66.20.0/24", "10.66.31.0/24"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	options.Pool = pool
	f := started(t, options)
	bridge, _ := device(t, f, DefaultBridge)
	inside(t, f, func() error {
		addresses, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(bridge, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		var have []string
		for _, a := range addresses {
			have = append(have, a.IPNet.String())
		}
		for _, r := range routes {
			have = append(have, r.Dst.String())
		}
		if got := strings.Join(have, " "); got != "10.66.20.255/32 10.66.31.0/32 10.66.20.0/24 10.66.31.0/24" {
			t.Errorf("the bridge has %s", got)
		}
		return nil
	})
}

func TestForeignDevicesAreLeftAlone(t *testing.T) {
	f := newFabric(t, freshOptions(t, "10.66.10.0/24"))
	if err := f.space.Create(); err != nil {
		t.Fatal(err)
	}
	inside(t, f, func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = DefaultBridge
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes})
	})
	var foreign *ForeignError
	if err := f.Ensure(context.Background()); !errors.As(err, &foreign) || foreign.Device != DefaultBridge {
		t.Errorf("Ensure() = %v, want a *ForeignError", err)
	}
	inside(t, f, f.removeLinks)
	if _, found := device(t, f, DefaultBridge); !found {
		t.Error("somebody else's bridge was removed")
	}
}

func TestDestroyInASharedNamespaceTakesOnlyItsOwn(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	other := options
	other.Bridge = "other0"
	other.Pool, _ = address.ParsePool([]string{"10.66.20.0/24"}, nil)
	f, neighbour := started(t, options), started(t, other)
	mine, theirs := attach(t, f, attachment("web", "10.66.10.14")), attach(t, neighbour, attachment("web", "10.66.20.14"))
	inside(t, f, f.removeLinks)
	for name, want := range map[string]bool{DefaultBridge: false, mine.Tap: false, "other0": true, theirs.Tap: true} {
		if _, found := device(t, f, name); found != want {
			t.Errorf("device %s is there: %t, want %t", name, found, want)
		}
	}
}

func TestDestroyIsIdempotentAndStartsAnew(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	attach(t, f, attachment("web", "10.66.10.14"))
	for range 2 {
		if err := f.Destroy(context.Background()); err != nil {
			t.Fatal(err)
		}
		if f.space.Exists() || len(f.List()) != 0 {
			t.Errorf("namespace is there: %t, List() = %v", f.space.Exists(), f.List())
		}
	}
	if err := f.Ensure(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(f.List()) != 0 {
		t.Errorf("List() = %v", f.List())
	}
}

func TestNoteGoesBothWaysAndFitsTheKernel(t *testing.T) {
	longest := Attachment{
		ID: strings.Repeat("i", 64), MAC: card("x"), Hostname: strings.Repeat("h", 63), Node: strings.Repeat("n", 63),
		Address: netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7777"),
	}
	for _, a := range []Attachment{longest, attachment("web", "10.66.10.14"), {ID: "web", MAC: card("x"), Address: netip.MustParseAddr("10.66.10.1")}} {
		note := a.note()
		parsed, valid := parseNote(note)
		if !valid || parsed.note() != note || parsed.Hostname != a.Hostname || len(note) > 255 {
			t.Errorf("%q became %+v, %t", note, parsed, valid)
		}
	}
	for _, note := range []string{"", "orlop1", "orlop0 web 020000000001 10.66.10.14 -", "orlop1 web zz 10.66.10.14 -", "orlop1 web 020000000001 here -"} {
		if parsed, valid := parseNote(note); valid {
			t.Errorf("%q was read as %+v", note, parsed)
		}
	}
}

func TestProbe(t *testing.T) {
	const marker = "ORLOP_TEST_PROBE"
	if os.Getenv(marker) != "" {
		mode, reason := Probe()
		t.Logf("%s: %s", mode, reason)
		if mode != User || !strings.Contains(reason, "CAP_NET_ADMIN") {
			t.Error("without rights there must be user mode, and a reason")
		}
		return
	}
	needRoot(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("needs setpriv to give up its rights")
	}
	command := exec.Command(setpriv, "--bounding-set=-all", "--inh-caps=-all", os.Args[0], "-test.run=^TestProbe$", "-test.v")
	command.Env = append(os.Environ(), marker+"=1")
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}
