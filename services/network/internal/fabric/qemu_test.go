package fabric

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"orlop.dev/services/network/internal/address"
)

// startQEMU starts a QEMU without a machine in the Fabric's namespace, waits until it has its devices, and returns how to
// end it.
func startQEMU(t *testing.T, f *Fabric, netdev string) (quit func() error) {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	command := exec.Command(path, "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", "-netdev", netdev)
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
	inside(t, f, command.Start)
	quit = func() error {
		_, err := io.WriteString(input, `{"execute":"quit"}`)
		return errors.Join(err, command.Wait())
	}
	if _, err := io.WriteString(input, `{"execute":"qmp_capabilities"}`); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"return"`) {
			return quit
		}
	}
	t.Fatalf("QEMU ended: %v: %s", command.Wait(), &complaint)
	return nil
}

func TestQEMUHoldsItsTapThroughTheNextProcess(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	f := started(t, options)
	wanted := attachment("web", "10.66.10.14")
	port := attach(t, f, wanted)
	quit := startQEMU(t, f, port.Netdev("net0"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	next := started(t, options)
	attach(t, next, wanted)
	open := func() (err error) {
		descriptor, err := openTap(port.Tap)
		if err == nil {
			unix.Close(descriptor)
		}
		return err
	}
	if err := next.space.Do(open); !errors.Is(err, unix.EBUSY) {
		t.Errorf("opening the tap gives %v: QEMU has lost it", err)
	}
	if err := quit(); err != nil {
		t.Errorf("QEMU: %v", err)
	}
	if err := next.space.Do(open); err != nil {
		t.Errorf("the tap is gone with QEMU: %v", err)
	}
}

func TestNetdevInUserMode(t *testing.T) {
	pool, err := address.ParsePool([]string{"10.66.10.0/24"}, []string{"10.66.10.1"})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		"10.66.10.2":  "user,id=n0,ipv6=off,restrict=on,net=10.66.10.0/24,dhcpstart=10.66.10.2,host=10.66.10.1,dns=10.66.10.3,hostfwd=tcp:127.0.0.1:22022-10.66.10.2:22",
		"10.66.10.14": "user,id=n0,ipv6=off,restrict=on,net=10.66.10.0/24,dhcpstart=10.66.10.14,host=10.66.10.1,dns=10.66.10.2,hostfwd=tcp:127.0.0.1:22022-10.66.10.14:22",
	} {
		subnet := pool.Subnets()[0]
		port := NewPort(attachment("web", at), subnet)
		port.Mode = User
		port.Forwards = []Forward{{Host: netip.MustParseAddrPort("127.0.0.1:22022"), Guest: 22}}
		if got := port.Netdev("n0"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestCancelledContextChangesNothing(t *testing.T) {
	f := newFabric(t, freshOptions(t, "10.66.10.0/24"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Ensure(ctx); !errors.Is(err, context.Canceled) || f.space.Exists() {
		t.Errorf("Ensure() = %v, namespace is there: %t", err, f.space.Exists())
	}
}
