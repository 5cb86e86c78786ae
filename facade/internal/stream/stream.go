// Package stream makes byte streams of the calls that tie a caller to a VM: its
// serial console, its screen, its ports.
//
// It must not know who is at the near end.
package stream

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// chunkBytes is how much goes into one message.
const chunkBytes = 32 << 10

// VM is the VM at the far end.
type VM struct{ Namespace, Name string }

// Stream is a connection to a VM. One goroutine may read while another writes.
type Stream struct {
	cancel    context.CancelFunc
	send      func(data []byte) error
	receive   func() ([]byte, error)
	closeSend func() error
	unread    []byte
}

// Console is a serial console. What was printed last comes first.
func Console(ctx context.Context, conn grpc.ClientConnInterface, vm VM) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	call, err := vmv1.NewVirtualMachineServiceClient(conn).AttachConsole(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return begin(&vmv1.AttachConsoleRequest{Namespace: vm.Namespace, Name: vm.Name}, call, cancel,
		func(data []byte) *vmv1.AttachConsoleRequest { return &vmv1.AttachConsoleRequest{Input: data} },
		(*vmv1.AttachConsoleResponse).GetOutput)
}

// Screen is a connection to the VM's VNC server (RFC 6143).
func Screen(ctx context.Context, conn grpc.ClientConnInterface, vm VM) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	call, err := vmv1.NewVirtualMachineServiceClient(conn).AttachVNC(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return begin(&vmv1.AttachVNCRequest{Namespace: vm.Namespace, Name: vm.Name}, call, cancel,
		func(data []byte) *vmv1.AttachVNCRequest { return &vmv1.AttachVNCRequest{Data: data} },
		(*vmv1.AttachVNCResponse).GetData)
}

// Port is a connection to a TCP port of the VM.
func Port(ctx context.Context, conn grpc.ClientConnInterface, vm VM, port uint16) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	call, err := networkv1.NewVirtualMachineIPAddressServiceClient(conn).Connect(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	first := &networkv1.ConnectRequest{Namespace: vm.Namespace, VirtualMachineName: vm.Name, Port: int32(port)}
	return begin(first, call, cancel,
		func(data []byte) *networkv1.ConnectRequest { return &networkv1.ConnectRequest{Data: data} },
		(*networkv1.ConnectResponse).GetData)
}

// begin names the VM, and waits until the service has reached it.
func begin[Request, Response any](
	first *Request, call grpc.BidiStreamingClient[Request, Response], cancel context.CancelFunc,
	request func([]byte) *Request, data func(*Response) []byte,
) (*Stream, error) {
	if err := call.Send(first); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv has the reason
		cancel()
		return nil, err
	}
	if err := accepted(call); err != nil {
		cancel()
		return nil, err
	}
	return &Stream{
		cancel:    cancel,
		send:      func(piece []byte) error { return call.Send(request(piece)) },
		closeSend: call.CloseSend,
		receive: func() ([]byte, error) {
			response, err := call.Recv()
			if err != nil {
				return nil, err
			}
			return data(response), nil
		},
	}, nil
}

// accepted waits for the header that the service sends once it has the far end.
func accepted[Request, Response any](call grpc.BidiStreamingClient[Request, Response]) error {
	header, err := call.Header()
	if err != nil || header != nil {
		return err
	}
	_, err = call.Recv() // a stream that ended without a header has a reason
	return err
}

// Read implements io.Reader. Its error is io.EOF where the far end is done, else
// the service's fault.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.unread) == 0 {
		var err error
		if s.unread, err = s.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// Write implements io.Writer. After io.EOF Read has the reason.
func (s *Stream) Write(p []byte) (int, error) {
	written := 0
	for len(p) > written {
		piece := p[written:min(len(p), written+chunkBytes)]
		if err := s.send(piece); err != nil {
			return written, err
		}
		written += len(piece)
	}
	return written, nil
}

// CloseWrite tells the far end that nothing more comes.
func (s *Stream) CloseWrite() error { return s.closeSend() }

// Close ends both directions. It may be repeated.
func (s *Stream) Close() error {
	s.cancel()
	return nil
}

// Relay ties the near end to the stream until the stream ends, or either breaks.
// Then it tells end the service's fault, if there is one, to close the near end
// with, which must end reads of it. A near end that goes away is no fault.
func Relay(near io.ReadWriter, far *Stream, end func(fault error)) error {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(far, near) // what breaks shows in the other direction
		_ = far.CloseWrite()
	}()
	err := Show(near, far)
	_ = far.Close()
	end(err)
	<-sent
	return err
}

// Show passes on what comes until the stream ends, or out takes no more.
func Show(out io.Writer, far *Stream) error {
	buffer := make([]byte, chunkBytes)
	for {
		n, err := far.Read(buffer)
		if n > 0 {
			if _, err := out.Write(buffer[:n]); err != nil {
				return nil //nolint:nilerr // The near end left.
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
