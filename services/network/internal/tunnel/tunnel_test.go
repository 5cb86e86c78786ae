package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/network/internal/tunnel"
)

const patience = 20 * time.Second

type stream = grpc.BidiStreamingClient[networkv1.ConnectRequest, networkv1.ConnectResponse]

// service serves Connect by a tunnel.
type service struct {
	networkv1.UnimplementedVirtualMachineIPAddressServiceServer
	tunnel *tunnel.Tunnel
	// ended has each result of Serve.
	ended chan error
}

func (s *service) Connect(stream grpc.BidiStreamingServer[networkv1.ConnectRequest, networkv1.ConnectResponse]) error {
	err := s.tunnel.Serve(stream)
	s.ended <- err
	return err
}

// open connects to what guest does with its connection, through real gRPC.
func open(t *testing.T, guest func(*net.TCPConn)) (stream, *service, context.CancelFunc) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	guestEnded := make(chan struct{})
	go func() {
		defer close(guestEnded)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		guest(conn.(*net.TCPConn))
	}()
	t.Cleanup(func() { _ = listener.Close(); <-guestEnded })
	s := &service{ended: make(chan error, 1), tunnel: &tunnel.Tunnel{
		Dial: new(net.Dialer).DialContext,
		Find: func(string, string) (netip.Addr, error) { return netip.MustParseAddr("127.0.0.1"), nil },
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	opened, err := networkv1.NewVirtualMachineIPAddressServiceClient(dial(t, s)).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	send(t, opened, &networkv1.ConnectRequest{Namespace: "default", VirtualMachineName: "vm", Port: int32(port)})
	return opened, s, cancel
}

func dial(t *testing.T, s *service) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(grpc.StreamInterceptor(fault.StreamServerInterceptor))
	networkv1.RegisterVirtualMachineIPAddressServiceServer(server, s)
	pipe := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(pipe) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///guests",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, to stream, message *networkv1.ConnectRequest) {
	t.Helper()
	if err := to.Send(message); err != nil {
		t.Fatal(err)
	}
}

// receive returns all that the guest says.
func receive(from stream) ([]byte, error) {
	var all []byte
	for {
		message, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, message.GetData()...)
	}
}

func TestBytesGoBothWaysUnchanged(t *testing.T) {
	const chunks = 256
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 2048)
	caller, _, _ := open(t, func(guest *net.TCPConn) { _, _ = io.Copy(guest, guest) })
	go func() {
		for range chunks {
			if caller.Send(&networkv1.ConnectRequest{Data: chunk}) != nil {
				return
			}
		}
		_ = caller.CloseSend()
	}()
	echoed, err := receive(caller)
	if err != nil || !bytes.Equal(echoed, bytes.Repeat(chunk, chunks)) {
		t.Errorf("%d of %d bytes came back, or others: %v", len(echoed), chunks*len(chunk), err)
	}
}

func TestGuestAnswersAfterTheCallerHasSaidAll(t *testing.T) {
	caller, _, _ := open(t, func(guest *net.TCPConn) {
		question, _ := io.ReadAll(guest) // returns at the half-close only
		_, _ = guest.Write(append([]byte("you said "), question...))
	})
	send(t, caller, &networkv1.ConnectRequest{Data: []byte("hello")})
	if err := caller.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if answer, err := receive(caller); err != nil || string(answer) != "you said hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

func TestStreamEndsWhenTheGuestCloses(t *testing.T) {
	caller, s, _ := open(t, func(guest *net.TCPConn) { _, _ = guest.Write([]byte("bye")) })
	if said, err := receive(caller); err != nil || string(said) != "bye" {
		t.Errorf("%q, %v", said, err)
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

func TestConnectionEndsWhenTheCallerLeaves(t *testing.T) {
	guestSaw := make(chan struct{})
	caller, s, leave := open(t, func(guest *net.TCPConn) {
		_, _ = guest.Write([]byte("hello"))
		_, _ = io.ReadAll(guest) // its end may be a reset
		close(guestSaw)
	})
	if _, err := caller.Recv(); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-s.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-guestSaw // the connection has ended
}

func TestCallersThatCanNotBeServed(t *testing.T) {
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	unknown := fault.New(fault.NotReady, "VirtualMachineNotRunning", "it is not there")
	s := &service{ended: make(chan error, 8), tunnel: &tunnel.Tunnel{
		Dial: new(net.Dialer).DialContext,
		Find: func(_, machine string) (netip.Addr, error) {
			if machine != "vm" {
				return netip.Addr{}, unknown
			}
			return netip.MustParseAddr("127.0.0.1"), nil
		},
	}}
	client := networkv1.NewVirtualMachineIPAddressServiceClient(dial(t, s))
	tests := map[string]struct {
		machine string
		port    int32
		reason  string
	}{
		"nobody listens":       {"vm", int32(closed.Addr().(*net.TCPAddr).Port), "VirtualMachineUnreachable"},
		"no such VM":           {"other", 80, "VirtualMachineNotRunning"},
		"no port":              {"vm", 0, fault.ReasonInvalid},
		"a port out of bounds": {"vm", 65536, fault.ReasonInvalid},
		"a port below the sea": {"vm", -1, fault.ReasonInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			caller, err := client.Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = caller.Send(&networkv1.ConnectRequest{Namespace: "default", VirtualMachineName: test.machine, Port: test.port})
			if _, err := receive(caller); fault.ReasonOf(err) != test.reason {
				t.Errorf("got %v, want reason %s", err, test.reason)
			}
		})
	}
}
