package cli

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
)

const testPatience = 20 * time.Second

// guestConsole is a VM whose console answers to what is typed in capitals. The
// first attempts to attach find it off.
type guestConsole struct {
	vmv1.UnimplementedVirtualMachineServiceServer

	mu       sync.Mutex
	attempts int
	failures []error // of the first attempts
}

func (g *guestConsole) AttachConsole(stream grpc.BidiStreamingServer[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse]) error {
	g.mu.Lock()
	attempt := g.attempts
	g.attempts++
	g.mu.Unlock()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if attempt < len(g.failures) {
		return g.failures[attempt]
	}
	if err := stream.Send(&vmv1.AttachConsoleResponse{Output: []byte(first.GetName() + " login: ")}); err != nil {
		return err
	}
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil // the caller left
		}
		if err := stream.Send(&vmv1.AttachConsoleResponse{Output: bytes.ToUpper(request.GetInput())}); err != nil {
			return err
		}
	}
}

// screen is what the user sees.
type screen struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(testPatience)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("the screen never showed %q but %q", text, s)
		}
	}
}

// attachTo runs the command's loop on a VM and returns its screen and its end.
func attachTo(t *testing.T, vm *guestConsole) (*console, *screen, <-chan error) {
	t.Helper()
	conn, _ := servetest.Host(t, serve.Part{Register: func(r grpc.ServiceRegistrar) error {
		vmv1.RegisterVirtualMachineServiceServer(r, vm)
		return nil
	}})
	out := &screen{changed: make(chan struct{}, 1)}
	c := &console{
		conn: conn, vm: objectName{"default", "linux-vm"},
		timeout: testPatience, in: make(chan []byte), out: out, note: out,
	}
	ended := make(chan error, 1)
	go func() { ended <- c.stay(t.Context()) }()
	return c, out, ended
}

func awaitEnd(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(testPatience):
		t.Fatal("the console didn't end")
		return nil
	}
}

func TestConsoleCarriesBothDirectionsUntilTheEscape(t *testing.T) {
	c, out, ended := attachTo(t, new(guestConsole))
	out.await(t, "linux-vm login: ")
	go c.read(t.Context(), strings.NewReader("whoami\x1dnever typed"))
	out.await(t, "WHOAMI")
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
	text := out.String()
	if !strings.Contains(text, "Successfully connected to linux-vm console. The escape sequence is ^]") {
		t.Errorf("no greeting in %q", text)
	}
	if strings.Contains(text, "NEVER") {
		t.Errorf("what follows the escape was typed: %q", text)
	}
}

func TestConsoleComesBackWhenTheVMDoes(t *testing.T) {
	off := fault.New(fault.NotReady, "VirtualMachineNotRunning", "the VM stopped")
	c, out, ended := attachTo(t, &guestConsole{failures: []error{off, off}})
	out.await(t, "waiting for default/linux-vm")
	out.await(t, "login: ")
	close(c.in)
	if err := awaitEnd(t, ended); err != nil {
		t.Error(err)
	}
}

func TestConsoleOfNoVMEndsWithTheReason(t *testing.T) {
	_, _, ended := attachTo(t, &guestConsole{failures: []error{fault.New(fault.NotFound, "NotFound", "no such VM")}})
	if err := awaitEnd(t, ended); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
}
