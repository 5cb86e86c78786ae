package vm

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const screenBuffer = 32 << 10

// visit is a caller at a screen.
type visit = grpc.BidiStreamingServer[vmv1.AttachVNCRequest, vmv1.AttachVNCResponse]

// AttachVNC implements vmv1.VirtualMachineServiceServer.
func (s *Service) AttachVNC(stream visit) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	vm, err := s.machines.Get(resource.Key{Namespace: first.GetNamespace(), Name: first.GetName()})
	if err != nil {
		return err
	}
	screen, err := s.engine.Screen(stream.Context(), vm.GetMetadata().GetUid())
	if err != nil {
		return err
	}
	defer screen.Close()
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	// A stream can't be read with a deadline: this is read until the stream ends,
	// which it does when the method returns.
	left := make(chan error, 1)
	go func() {
		left <- operate(stream, screen, first.GetData())
		_ = screen.Close() // ends watch
	}()
	defer context.AfterFunc(stream.Context(), func() { _ = screen.Close() })()
	err = watch(stream, screen)
	select {
	case err = <-left:
	default:
	}
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

// operate passes on what the VNC client sends.
func operate(stream visit, screen io.Writer, data []byte) error {
	for {
		if len(data) > 0 {
			if _, err := screen.Write(data); err != nil {
				return screenGone(err)
			}
		}
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errHungUp
		}
		if err != nil {
			return err
		}
		data = request.GetData()
	}
}

// watch passes on what the VNC server sends.
func watch(stream visit, screen io.Reader) error {
	buffer := make([]byte, screenBuffer)
	for {
		n, err := screen.Read(buffer)
		if n > 0 {
			if err := stream.Send(&vmv1.AttachVNCResponse{Data: buffer[:n]}); err != nil {
				return err
			}
		}
		if err != nil {
			return screenGone(err)
		}
	}
}

func screenGone(err error) error {
	return fault.Wrap(err, fault.NotReady, "VirtualMachineNotRunning", "the VM's screen went away: it stopped, restarts or moves")
}
