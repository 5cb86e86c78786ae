package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var lease = Lease{
	Address:  netip.MustParsePrefix("10.66.10.14/23"),
	Gateway:  netip.MustParseAddr("10.66.10.255"),
	Hostname: "linux-vm", MTU: 1400, Duration: time.Hour,
}

func request(t *testing.T, kind dhcpv4.MessageType, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	message, err := dhcpv4.New(append(modifiers, dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind))...)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func server(address string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(address).To4()))
}

func requested(address string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(address).To4()))
}

func TestAnswerFollowsTheProtocol(t *testing.T) {
	const silence = dhcpv4.MessageTypeNone
	client := dhcpv4.WithClientIP
	relay := dhcpv4.WithRelay(net.IPv4(10, 66, 10, 9))
	tests := map[string]struct {
		kind      dhcpv4.MessageType
		modifiers []dhcpv4.Modifier
		want      dhcpv4.MessageType
		to        string
	}{
		"discover":            {dhcpv4.MessageTypeDiscover, nil, dhcpv4.MessageTypeOffer, "10.66.10.14"},
		"discover, broadcast": {dhcpv4.MessageTypeDiscover, mods(dhcpv4.WithBroadcast(true)), dhcpv4.MessageTypeOffer, "255.255.255.255"},
		"discover, relayed":   {dhcpv4.MessageTypeDiscover, mods(relay), silence, ""},
		"select":              {dhcpv4.MessageTypeRequest, mods(server("10.66.10.255"), requested("10.66.10.14")), dhcpv4.MessageTypeAck, "10.66.10.14"},
		"select other server": {dhcpv4.MessageTypeRequest, mods(server("10.66.10.9"), requested("10.66.10.14")), silence, ""},
		"reboot":              {dhcpv4.MessageTypeRequest, mods(requested("10.66.10.14")), dhcpv4.MessageTypeAck, "10.66.10.14"},
		"reboot, old address": {dhcpv4.MessageTypeRequest, mods(requested("10.66.10.15")), dhcpv4.MessageTypeNak, "255.255.255.255"},
		"renew":               {dhcpv4.MessageTypeRequest, mods(client(net.IPv4(10, 66, 10, 14))), dhcpv4.MessageTypeAck, "10.66.10.14"},
		"renew, old address":  {dhcpv4.MessageTypeRequest, mods(client(net.IPv4(10, 66, 10, 15))), dhcpv4.MessageTypeNak, "255.255.255.255"},
		"request for nothing": {dhcpv4.MessageTypeRequest, nil, dhcpv4.MessageTypeNak, "255.255.255.255"},
		"inform":              {dhcpv4.MessageTypeInform, mods(client(net.IPv4(10, 66, 10, 14))), dhcpv4.MessageTypeAck, "10.66.10.14"},
		"release":             {dhcpv4.MessageTypeRelease, mods(server("10.66.10.255")), silence, ""},
		"decline":             {dhcpv4.MessageTypeDecline, mods(server("10.66.10.255")), silence, ""},
		"not a client's":      {dhcpv4.MessageTypeOffer, nil, silence, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			asked := request(t, test.kind, test.modifiers...)
			reply, err := answer(asked, lease)
			if err != nil {
				t.Fatal(err)
			}
			if reply == nil {
				if test.want != silence {
					t.Fatalf("silence, want %s", test.want)
				}
				return
			}
			if reply.MessageType() != test.want {
				t.Errorf("answered %s, want %s", reply.MessageType(), test.want)
			}
			if to := destination(asked, reply).(*net.UDPAddr); to.IP.String() != test.to || to.Port != 68 {
				t.Errorf("to %s, want %s", to, test.to)
			}
		})
	}
}

func mods(modifiers ...dhcpv4.Modifier) []dhcpv4.Modifier { return modifiers }

func TestGrantTellsTheWholeLease(t *testing.T) {
	identifier := dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("client")))
	told := lease
	told.DNS = []netip.Addr{netip.MustParseAddr("10.66.10.2")}
	reply, err := answer(request(t, dhcpv4.MessageTypeDiscover, identifier), told)
	if err != nil {
		t.Fatal(err)
	}
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, reply.Options)
	mask, _ := reply.SubnetMask().Size()
	for what, pair := range map[string][2]any{
		"address":           {reply.YourIPAddr.String(), "10.66.10.14"},
		"mask":              {mask, 23},
		"router":            {reply.Router()[0].String(), "10.66.10.255"},
		"server":            {reply.ServerIdentifier().String(), "10.66.10.255"},
		"name server":       {reply.DNS()[0].String(), "10.66.10.2"},
		"hostname":          {reply.HostName(), "linux-vm"},
		"MTU":               {mtu, uint16(1400)},
		"time":              {reply.IPAddressLeaseTime(0), time.Hour},
		"client identifier": {string(reply.GetOneOption(dhcpv4.OptionClientIdentifier)), "client"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, want %v", what, pair[0], pair[1])
		}
	}
}

func TestInformIsToldNoAddress(t *testing.T) {
	reply, err := answer(request(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IPv4(10, 66, 10, 14))), lease)
	if err != nil {
		t.Fatal(err)
	}
	if !isZero(reply.YourIPAddr) || reply.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
		t.Errorf("told address %s for %s", reply.YourIPAddr, reply.IPAddressLeaseTime(0))
	}
}
