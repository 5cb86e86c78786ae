package vm

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/console"
)

const consoleBuffer = 16 << 10

// errHungUp ends a console session whose caller left.
var errHungUp = errors.New("the caller hung up")

// terminal is a caller at a console.
type terminal = grpc.BidiStreamingServer[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse]

// AttachConsole implements vmv1.VirtualMachineServiceServer.
func (s *Service) AttachConsole(stream terminal) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	vm, err := s.machines.Get(resource.Key{Namespace: first.GetNamespace(), Name: first.GetName()})
	if err != nil {
		return err
	}
	line, err := s.engine.Console(stream.Context(), vm.GetMetadata().GetUid())
	if err != nil {
		return err
	}
	viewer, err := line.Attach()
	if err != nil {
		return err
	}
	// The caller learns that it is there: a guest may print nothing for long.
	if err := stream.SendHeader(nil); err != nil {
		return errors.Join(err, viewer.Close())
	}
	// A stream can't be read with a deadline: what is typed is read until the
	// stream ends, which it does when this returns.
	typed := make(chan error, 1)
	go func() {
		typed <- enter(stream, line, viewer, first.GetInput())
		_ = viewer.Close() // ends show
	}()
	stop := context.AfterFunc(stream.Context(), func() { _ = viewer.Close() })
	defer stop()
	err = show(stream, viewer)
	_ = viewer.Close()
	select {
	case err = <-typed:
	default:
	}
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

// show sends what the guest prints.
func show(stream terminal, viewer *console.Viewer) error {
	buffer := make([]byte, consoleBuffer)
	for {
		n, err := viewer.Read(buffer)
		if n > 0 {
			if err := stream.Send(&vmv1.AttachConsoleResponse{Output: buffer[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return fault.New(fault.NotReady, "VirtualMachineNotRunning", "the VM stopped")
		case errors.Is(err, console.ErrSlow):
			return fault.Wrap(err, fault.Exhausted, "ConsoleTooSlow", "the guest prints faster than this console can show")
		case err != nil:
			return err
		}
	}
}

// enter types what the caller sends, once there is a line to type into: a guest
// that was found just now has none for a moment.
func enter(stream terminal, line *console.Console, viewer *console.Viewer, input []byte) error {
	select {
	case <-line.Connected():
	case <-stream.Context().Done():
		return errHungUp
	}
	for {
		if len(input) > 0 {
			if _, err := viewer.Write(input); err != nil && !errors.Is(err, console.ErrDisconnected) && !errors.Is(err, console.ErrInputBlocked) {
				return err
			}
		}
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errHungUp
		}
		if err != nil {
			return err
		}
		input = request.GetInput()
	}
}
