package fabric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// broadcast is everybody's MAC.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frame is an Ethernet frame to everybody.
func frame(from net.HardwareAddr, kind uint16, payload []byte) []byte {
	header := append(append([]byte{}, broadcast...), from...)
	return append(binary.BigEndian.AppendUint16(header, kind), payload...)
}

// arp says that an address is at a MAC (RFC 826).
func arp(from, claimed net.HardwareAddr, at string) []byte {
	body := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	address := netip.MustParseAddr(at).As4()
	for range 2 {
		body = append(append(body, claimed...), address[:]...)
	}
	return frame(from, unix.ETH_P_ARP, body)
}

// udp4 is an empty datagram to everybody.
func udp4(from net.HardwareAddr, at string, source, target uint16) []byte {
	header := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	address := netip.MustParseAddr(at).As4()
	header = append(append(header, address[:]...), 255, 255, 255, 255)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	header = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(header, source), target)
	return frame(from, unix.ETH_P_IP, append(header, 0, 8, 0, 0))
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

// icmp6 is a message of neighbor discovery (RFC 4861) about an address.
func icmp6(from net.HardwareAddr, at string, kind byte, about string) []byte {
	source, target := netip.MustParseAddr(at).As16(), netip.MustParseAddr(about).As16()
	everybody := netip.MustParseAddr("ff02::1").As16()
	header := append([]byte{0x60, 0, 0, 0, 0, 24, unix.IPPROTO_ICMPV6, 255}, source[:]...)
	header = append(append(header, everybody[:]...), kind, 0, 0, 0, 0, 0, 0, 0)
	return frame(from, unix.ETH_P_IPV6, append(header, target[:]...))
}

// wire hears all that comes to a stand.
func (s stand) wire(t *testing.T) int {
	t.Helper()
	var socket int
	err := s.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err == nil {
		err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(socket) })
	return socket
}

// heard reads a wire until a frame comes that is like the last one of sent, and
// tells which of them came. While nothing comes at all, which is so until the
// bridge has seen that the card has carrier, again is done.
func heard(t *testing.T, wire int, sent [][]byte, again func()) []bool {
	t.Helper()
	came := make([]bool, len(sent))
	buffer := make([]byte, 2000)
	for began := time.Now(); !came[len(came)-1]; {
		n, _, err := unix.Recvfrom(wire, buffer, 0)
		switch {
		case errors.Is(err, unix.EAGAIN) && time.Since(began) < patience:
			again()
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			t.Fatalf("the last frame did not come: %v", err)
		}
		for i, f := range sent {
			came[i] = came[i] || bytes.HasPrefix(buffer[:n], f)
		}
	}
	return came
}

// say sends a frame out of a guest's card, as QEMU does.
func say(t *testing.T, tap *os.File, frame []byte) {
	t.Helper()
	const header = 10 // of virtio-net, saying nothing
	if _, err := tap.Write(append(make([]byte, header), frame...)); err != nil {
		t.Fatal(err)
	}
}

func TestGuestSpeaksForItselfAlone(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24", "fd66::/64"))
	own4, own6 := attachment("one", "10.66.10.14"), attachment("six", "fd66::14")
	port4, port6 := attach(t, f, own4), attach(t, f, own6)
	attach(t, f, attachment("two", "10.66.10.15"))
	listener := plugIn(t, f, card("listener")).wire(t)
	other := card("two")
	const solicitation, advertisement, router = 135, 136, 134
	for _, guest := range []struct {
		tap    string
		frames map[string][]byte // by "+" or "-" and what it is
		last   []byte
	}{
		{port4.Tap, map[string][]byte{
			"+ asks for its address by DHCP":      udp4(own4.MAC, "0.0.0.0", 68, 67),
			"+ tells where its address is":        arp(own4.MAC, own4.MAC, "10.66.10.14"),
			"+ has moved":                         frame(own4.MAC, 0x8035, make([]byte, 28)),
			"- uses another's MAC":                udp4(other, "10.66.10.14", 1, 2),
			"- uses another's address":            udp4(own4.MAC, "10.66.10.15", 1, 2),
			"- uses the gateway's address":        udp4(own4.MAC, "10.66.10.255", 1, 2),
			"- uses no address, and isn't DHCP's": udp4(own4.MAC, "0.0.0.0", 1, 2),
			"- answers DHCP":                      udp4(own4.MAC, "10.66.10.255", 67, 68),
			"- claims another's address":          arp(own4.MAC, own4.MAC, "10.66.10.15"),
			"- claims the gateway's address":      arp(own4.MAC, own4.MAC, "10.66.10.255"),
			"- says where its address isn't":      arp(own4.MAC, other, "10.66.10.14"),
			"- uses an address of IPv6":           icmp6(own4.MAC, "fd66::14", advertisement, "fd66::14"),
			"- hides in a VLAN":                   frame(own4.MAC, unix.ETH_P_8021Q, append([]byte{0, 1, 8, 0}, make([]byte, 40)...)),
		}, udp4(own4.MAC, "10.66.10.14", 1, 2)},
		{port6.Tap, map[string][]byte{
			"+ looks for a neighbor":         icmp6(own6.MAC, "fd66::14", solicitation, "fd66::15"),
			"+ tells where its address is":   icmp6(own6.MAC, "fd66::14", advertisement, "fd66::14"),
			"+ has an address of its link":   icmp6(own6.MAC, "fe80::14", advertisement, "fe80::14"),
			"- uses another's address":       icmp6(own6.MAC, "fd66::15", solicitation, "fd66::16"),
			"- claims another's address":     icmp6(own6.MAC, "fe80::14", advertisement, "fd66::15"),
			"- claims the gateway's address": icmp6(own6.MAC, "fd66::14", advertisement, "fd66::"),
			"- is a router":                  icmp6(own6.MAC, "fe80::14", router, "::"),
			"- uses an address of IPv4":      udp4(own6.MAC, "10.66.10.14", 1, 2),
		}, icmp6(own6.MAC, "fd66::14", solicitation, "fd66::99")},
	} {
		tap := hold(t, f, guest.tap)
		var names []string
		var sent [][]byte
		for name, frame := range guest.frames {
			names, sent = append(names, name), append(sent, frame)
		}
		sent = append(sent, guest.last) // frames come in their order
		sayAll := func() {
			for _, frame := range sent {
				say(t, tap, frame)
			}
		}
		heard(t, listener, [][]byte{guest.last}, func() { say(t, tap, guest.last) })
		sayAll()
		for i, came := range heard(t, listener, sent, sayAll)[:len(names)] {
			if came != (names[i][0] == '+') {
				t.Errorf("%s: came through: %t", names[i], came)
			}
		}
	}
}

func TestFilterFollowsTheAttachment(t *testing.T) {
	f := started(t, freshOptions(t, "10.66.10.0/24"))
	guest := attachment("one", "10.66.10.14")
	tap := hold(t, f, attach(t, f, guest).Tap)
	listener := plugIn(t, f, card("listener")).wire(t)
	former := udp4(guest.MAC, "10.66.10.14", 1, 2)
	guest.Address = netip.MustParseAddr("10.66.10.15")
	attach(t, f, guest)
	for _, repeat := range []func() error{
		func() error { return nil },
		func() error { return f.Ensure(t.Context()) }, // makes the table anew
	} {
		if err := repeat(); err != nil {
			t.Fatal(err)
		}
		last := udp4(guest.MAC, "10.66.10.15", 1, 2)
		sayBoth := func() {
			say(t, tap, former)
			say(t, tap, last)
		}
		sayBoth()
		if heard(t, listener, [][]byte{former, last}, sayBoth)[0] {
			t.Error("the guest uses an address that it has no more")
		}
	}
}
