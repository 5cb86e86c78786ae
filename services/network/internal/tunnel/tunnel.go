// Package tunnel carries the bytes of one TCP connection between a caller and a
// guest.
//
// It must not know who may connect, nor how a guest is reached.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc/metadata"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
)

const (
	// chunkBytes is the most that is kept of what a guest sends: the caller's
	// flow control slows the guest down.
	chunkBytes = 32 << 10
	// dialTimeout is how long a guest that doesn't answer is waited for.
	dialTimeout = 10 * time.Second

	reasonUnreachable = "VirtualMachineUnreachable"
)

// Stream is the caller's end: a grpc.BidiStreamingServer.
type Stream interface {
	Context() context.Context
	SendHeader(metadata.MD) error
	Recv() (*networkv1.ConnectRequest, error)
	Send(*networkv1.ConnectResponse) error
}

// Tunnel reaches guests.
type Tunnel struct {
	// Dial connects to a literal address and port from where guests are.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Find tells the address of a VM that runs.
	Find func(namespace, machine string) (netip.Addr, error)
}

// Serve connects a caller to the guest that its first message names, and returns
// when the guest has said all that it has to say, or the caller has left.
//
// A caller that has nothing more to send half-closes its stream, and the guest
// its connection in turn; what the guest then says still arrives. The other way
// round there is no such thing in gRPC: once the guest closes, the stream ends.
func (t *Tunnel) Serve(stream Stream) error {
	first, err := stream.Recv()
	if err != nil {
		return leaving(err)
	}
	conn, err := t.open(stream.Context(), first)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The caller learns that it is through before either side speaks.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	// A caller that leaves ends both directions.
	stop := context.AfterFunc(stream.Context(), func() { conn.Close() })
	defer stop()

	sent := make(chan error, 1)
	// It ends with the stream at the latest: once this method has returned, Recv
	// fails.
	go func() {
		err := toGuest(stream, conn, first.GetData())
		sent <- err
		if err != nil {
			conn.Close()
		}
	}()
	said := toCaller(stream, conn)
	if stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	select {
	case err := <-sent:
		return errors.Join(err, said)
	default:
		return said
	}
}

func (t *Tunnel) open(ctx context.Context, first *networkv1.ConnectRequest) (net.Conn, error) {
	port := first.GetPort()
	if port < 1 || port > 65535 {
		return nil, fault.Refuse("port", "FieldValueInvalid", "must be between 1 and 65535")
	}
	at, err := t.Find(first.GetNamespace(), first.GetVirtualMachineName())
	if err != nil {
		return nil, err
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	target := netip.AddrPortFrom(at, uint16(port)).String()
	conn, err := t.Dial(dialing, "tcp", target)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fault.Wrap(err, fault.NotReady, reasonUnreachable, "VM %s does not answer at %s: %s",
		first.GetVirtualMachineName(), target, cause(err))
}

// toGuest writes what the caller sends, until it has nothing more to send.
func toGuest(stream Stream, conn net.Conn, data []byte) error {
	for {
		if _, err := conn.Write(data); err != nil {
			// The guest closed, which toCaller tells; what it said last is still on
			// its way.
			return nil //nolint:nilerr // toCaller tells
		}
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			halfClose(conn)
			return nil
		}
		if err != nil {
			return err
		}
		data = message.GetData()
	}
}

// halfClose says to the guest that nothing more comes. It fails only where the
// guest is gone, which toCaller tells.
func halfClose(conn net.Conn) {
	if half, can := conn.(interface{ CloseWrite() error }); can {
		_ = half.CloseWrite()
	}
}

// toCaller sends what the guest says, until it closes.
func toCaller(stream Stream, conn net.Conn) error {
	chunk := make([]byte, chunkBytes)
	for {
		n, err := conn.Read(chunk)
		if n > 0 {
			if err := stream.Send(&networkv1.ConnectResponse{Data: chunk[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return fault.Wrap(err, fault.Transient, reasonUnreachable, "the connection to the VM broke: %s", cause(err))
		}
	}
}

// leaving is no failure when the caller just says nothing more.
func leaving(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// cause is the system's word for a failed connection, without our addresses.
func cause(err error) string {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time"
	}
	var failed *net.OpError
	if errors.As(err, &failed) {
		return failed.Err.Error()
	}
	return err.Error()
}
