package fabric

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// patience bounds what must happen; no test waits for it to pass.
const patience = 20 * time.Second

// lease asks for an address by DHCP.
func (s stand) lease(t *testing.T, mac net.HardwareAddr) net.IP {
	t.Helper()
	return s.ask(t, mac).ACK.YourIPAddr
}

func (s stand) ask(t *testing.T, mac net.HardwareAddr) *nclient4.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var client *nclient4.Client
	s.do(t, func(netlink.Link) (err error) {
		client, err = nclient4.New("eth0", nclient4.WithHWAddr(mac), nclient4.WithTimeout(time.Second), nclient4.WithRetry(20))
		return err
	})
	defer client.Close()
	lease, err := client.Request(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// fetch reads all that a guest's port says, from the Fabric.
func fetch(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), target string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := dial(ctx, "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func TestGuestGetsItsLeasedAddressAndStrangersGetNone(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	options.DNS = []netip.Addr{netip.MustParseAddr("10.66.10.2")}
	f := started(t, options)
	wanted := attachment("web", "10.66.10.14")
	attach(t, f, wanted)
	stranger, guest := plugIn(t, f, card("stranger")), plugIn(t, f, wanted.MAC)

	// The server answers in order. So once the guest has its answer, the stranger's, sent before, would be there.
	discover, err := dhcpv4.NewDiscovery(card("stranger"), dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	wire := stranger.send(t, discover)

	lease := guest.ask(t, wanted.MAC)
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, lease.ACK.Options)
	length, _ := lease.ACK.SubnetMask().Size()
	if !lease.ACK.YourIPAddr.Equal(net.IPv4(10, 66, 10, 14)) || length != 23 || lease.ACK.HostName() != "web" || mtu != 1400 ||
		!lease.ACK.Router()[0].Equal(net.IPv4(10, 66, 10, 255)) || !lease.ACK.DNS()[0].Equal(net.IPv4(10, 66, 10, 2)) {
		t.Errorf("told %s", lease.ACK.Summary())
	}
	if err := wire.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := wire.ReadFrom(make([]byte, 1500)); err == nil {
		t.Errorf("the stranger got %d bytes", n)
	}
}

// send sends a DHCP message as a guest without an address does, and returns the wire to hear the answer on.
func (s stand) send(t *testing.T, message *dhcpv4.DHCPv4) (wire net.PacketConn) {
	t.Helper()
	s.do(t, func(netlink.Link) (err error) {
		wire, err = nclient4.NewRawUDPConn("eth0", 68)
		return err
	})
	t.Cleanup(func() { wire.Close() })
	if _, err := wire.WriteTo(message.ToBytes(), nclient4.DefaultServers); err != nil {
		t.Fatal(err)
	}
	return wire
}

func TestGuestThatRemembersAnotherAddressIsToldToAskAnew(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	attach(t, f, attachment("web", "10.66.10.14"))
	guest := plugIn(t, f, card("web"))
	remembered, err := dhcpv4.New(dhcpv4.WithHwAddr(card("web")), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 66, 10, 15).To4())))
	if err != nil {
		t.Fatal(err)
	}
	wire := guest.send(t, remembered)
	if err := wire.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 1500)
	n, from, err := wire.ReadFrom(packet)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := dhcpv4.FromBytes(packet[:n])
	if err != nil || reply.MessageType() != dhcpv4.MessageTypeNak || reply.TransactionID != remembered.TransactionID {
		t.Errorf("%s said %v, %v", from, reply, err)
	}
	if source := from.(*net.UDPAddr).IP; source.String() != "10.66.10.255" {
		t.Errorf("the answer came from %s, want the gateway", source)
	}
}

func TestGuestIsToldANewAddressAfterItsAttachmentChanged(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	attach(t, f, attachment("web", "10.66.10.14"))
	guest := plugIn(t, f, card("web"))
	first := guest.lease(t, card("web"))
	attach(t, f, attachment("web", "10.66.10.15"))
	if second := guest.lease(t, card("web")); first.String() != "10.66.10.14" || second.String() != "10.66.10.15" {
		t.Errorf("told %s, then %s", first, second)
	}
}

func TestNextProcessAnswersBeforeAnythingIsAttachedAgain(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	f := started(t, options)
	attach(t, f, attachment("web", "10.66.10.14"))
	guest := plugIn(t, f, card("web"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	started(t, options)
	if told := guest.lease(t, card("web")); told.String() != "10.66.10.14" {
		t.Errorf("told %s", told)
	}
}

// The script does what the usual one of udhcpc does, with the same tools.
const udhcpcScript = `#!/bin/sh
set -e
[ "$1" = bound ] || exit 0
busybox ip address add "$ip/$mask" dev "$interface"
busybox ip route add default via "$router" dev "$interface"
`

func TestBusyboxGuestIsReachedByItsAddress(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	f := started(t, freshOptions(t, "10.66.11.0/24"))
	attach(t, f, attachment("web", "10.66.11.254"))
	guest := plugIn(t, f, card("web"))
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(udhcpcScript), 0o755); err != nil {
		t.Fatal(err)
	}
	guest.do(t, func(netlink.Link) error {
		output, err := exec.Command(busybox, "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "20", "-T", "1", "-s", script).CombinedOutput()
		t.Logf("%s", output)
		return err
	})
	target := guest.greet(t, netip.MustParseAddr("10.66.11.254"), "hello")
	if said := fetch(t, f.DialContext, target); said != "hello 10.66.11.0" {
		t.Errorf("the guest said %q, want a greeting of its gateway", said)
	}
}

func TestGuestsOfSeveralCIDRsReachEachOther(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24", "10.66.20.0/28", "10.66.30.7/32", "fd66::/64"))
	ids := []string{"10.66.10.14", "10.66.20.1", "10.66.30.7", "fd66::14"}
	guests := map[string]stand{}
	targets := map[string]string{}
	for _, id := range ids {
		wanted := attachment(id, id)
		wanted.Hostname = ""
		port := attach(t, f, wanted)
		guests[id] = plugIn(t, f, card(id))
		guests[id].configure(t, port)
		targets[id] = guests[id].greet(t, port.Address.Addr(), id)
		if said := fetch(t, f.DialContext, targets[id]); !strings.HasPrefix(said, id) {
			t.Errorf("%s said %q", id, said)
		}
	}
	for from, guest := range guests {
		for to, target := range targets {
			if strings.Contains(from, ":") != strings.Contains(to, ":") {
				continue
			}
			if said := fetch(t, guest.DialContext, target); said != to+" "+from {
				t.Errorf("from %s: %s said %q", from, to, said)
			}
		}
	}
}

func TestGuestReachesWhatListensOnItsGateway(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	port := attach(t, f, attachment("web", "10.66.10.14"))
	guest := plugIn(t, f, card("web"))
	guest.configure(t, port)
	listener, err := f.Listen(context.Background(), "tcp", netip.AddrPortFrom(port.Gateway, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.WriteString(conn, "gateway") // the other end tells
			conn.Close()
		}
	}()
	if said := fetch(t, guest.DialContext, listener.Addr().String()); said != "gateway" {
		t.Errorf("heard %q", said)
	}
}

func TestHostSendsToTheLeaseholderOnly(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	port := attach(t, f, attachment("web", "10.66.10.14"))
	honest, thief := plugIn(t, f, card("web")), plugIn(t, f, card("thief"))
	honest.configure(t, port)
	thief.configure(t, port)
	target := honest.greet(t, port.Address.Addr(), "honest")
	thief.greet(t, port.Address.Addr(), "thief")
	for range 10 {
		if said := fetch(t, f.DialContext, target); !strings.HasPrefix(said, "honest") {
			t.Fatalf("%q answered", said)
		}
	}
}
