// Package dhcp answers guests' DHCP requests (RFC 2131) with what somebody else decided: one fixed address a MAC. It
// leases nothing on its own and never speaks to a MAC that it doesn't know. It knows nothing of bridges and namespaces.
package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A Lease is what one guest is told.
type Lease struct {
	Address  netip.Prefix // IPv4, with the length of its link
	Gateway  netip.Addr   // also names this server
	DNS      []netip.Addr
	Hostname string
	MTU      int // bytes
	Duration time.Duration
}

// A Lookup finds the lease of a MAC. It is called for each request and must not block.
type Lookup func(hardware net.HardwareAddr) (Lease, bool)

// A Server answers on one socket.
type Server struct {
	conn   *ipv4.PacketConn
	lookup Lookup
	log    *slog.Logger
}

// Listen opens the socket of a server on one device of the calling thread's network namespace, and of no other device.
// It needs CAP_NET_BIND_SERVICE and CAP_NET_RAW.
func Listen(ctx context.Context, device string) (net.PacketConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw rawConn) error { return prepare(raw, device) }}
	return config.ListenPacket(ctx, "udp4", "0.0.0.0:67")
}

// New returns a server on a socket that Listen opened, which from now on is the server's.
func New(conn net.PacketConn, lookup Lookup, log *slog.Logger) *Server {
	return &Server{conn: ipv4.NewPacketConn(conn), lookup: lookup, log: log}
}

// Serve answers until the context ends, then closes the socket and returns nil. Any other end is an error.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	defer s.conn.Close()
	packet := make([]byte, 1<<16)
	for {
		n, _, _, err := s.conn.ReadFrom(packet)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN):
			// Reported once while the device is down; the next read waits for it.
		case err != nil:
			return err
		default:
			s.serve(packet[:n])
		}
	}
}

func (s *Server) serve(packet []byte) {
	request, err := dhcpv4.FromBytes(packet)
	if err != nil {
		s.log.Debug("DHCP packet unreadable", "error", err)
		return
	}
	lease, known := s.lookup(request.ClientHWAddr)
	if !known {
		s.log.Debug("DHCP request of an unknown MAC left unanswered", "mac", request.ClientHWAddr.String())
		return
	}
	if request.MessageType() == dhcpv4.MessageTypeDecline {
		s.log.Warn("guest declined its address: something else answers on it",
			"mac", request.ClientHWAddr.String(), "address", lease.Address.Addr().String())
	}
	reply, err := answer(request, lease)
	if reply == nil || err != nil {
		return
	}
	// The source must be the address that the guest knows the server by, not any that the device has.
	control := &ipv4.ControlMessage{Src: lease.Gateway.AsSlice()}
	if _, err := s.conn.WriteTo(reply.ToBytes(), control, destination(request, reply)); err != nil {
		s.log.Warn("DHCP reply not sent", "mac", request.ClientHWAddr.String(), "error", err)
	}
}
