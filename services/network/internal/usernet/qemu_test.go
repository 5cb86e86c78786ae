package usernet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"orlop.dev/services/network/internal/fabric"
)

// startQEMU starts a QEMU without a machine, but with the port's network and a wire to it in the guest's place: a Unix
// socket that carries Ethernet frames.
func startQEMU(t *testing.T, port fabric.Port) *net.UnixConn {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	folder := t.TempDir()
	mine, qemus := filepath.Join(folder, "guest"), filepath.Join(folder, "qemu")
	wire, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: mine, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	command := exec.Command(path, "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio",
		"-netdev", port.Netdev("net0"), "-netdev", "hubport,id=hub0,hubid=0,netdev=net0",
		"-netdev", "dgram,id=wire0,local.type=unix,local.path="+qemus+",remote.type=unix,remote.path="+mine,
		"-netdev", "hubport,id=hub1,hubid=0,netdev=wire0")
	var complaint bytes.Buffer
	command.Stderr = &complaint
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := io.WriteString(input, `{"execute":"quit"}`)
		if err := errors.Join(err, command.Wait()); err != nil {
			t.Errorf("QEMU: %v: %s", err, &complaint)
		}
	})
	if _, err := io.WriteString(input, `{"execute":"qmp_capabilities"}`); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"return"`) {
			return wire
		}
	}
	t.Fatalf("QEMU ended: %s", &complaint)
	return nil
}

// frame wraps a DHCP request in UDP, IPv4 and Ethernet.
func frame(request *dhcpv4.DHCPv4) []byte {
	payload := request.ToBytes()
	packet := append([]byte{}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	packet = append(packet, request.ClientHWAddr...)
	packet = append(packet, 0x08, 0x00)
	ip := make([]byte, 28)
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 68)
	binary.BigEndian.PutUint16(ip[22:], 67)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(payload)))
	return append(append(packet, ip...), payload...)
}

func TestQEMUGivesTheLeasedAddressAndForwards(t *testing.T) {
	for _, at := range []string{"10.66.10.14", "10.66.10.1", "10.66.10.2", "10.66.10.254"} {
		t.Run(at, func(t *testing.T) {
			network := started(t, freshOptions(t))
			port := attach(t, network, attachment("web", at))
			wire := startQEMU(t, port)
			for _, forward := range port.Forwards {
				conn, err := net.Dial("tcp", forward.Host.String())
				if err != nil {
					t.Fatalf("QEMU doesn't forward: %v", err)
				}
				conn.Close()
			}
			if offered := discover(t, wire, port); offered.YourIPAddr.String() != at {
				t.Errorf("QEMU offers %s", offered.Summary())
			}
		})
	}
}

// discover asks QEMU's DHCP server for an address.
func discover(t *testing.T, wire *net.UnixConn, port fabric.Port) *dhcpv4.DHCPv4 {
	t.Helper()
	request, err := dhcpv4.NewDiscovery(port.MAC)
	if err != nil {
		t.Fatal(err)
	}
	qemus := filepath.Join(filepath.Dir(wire.LocalAddr().String()), "qemu")
	if _, err := wire.WriteTo(frame(request), &net.UnixAddr{Name: qemus, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	if err := wire.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	const headers = 14 + 20 + 8
	for packet := make([]byte, 1<<16); ; {
		n, err := wire.Read(packet)
		if err != nil {
			t.Fatalf("no offer: %v", err)
		}
		if n < headers {
			continue
		}
		reply, err := dhcpv4.FromBytes(packet[headers:n])
		if err == nil && reply.TransactionID == request.TransactionID {
			return reply
		}
	}
}
