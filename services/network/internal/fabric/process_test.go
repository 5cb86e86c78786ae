package fabric

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"orlop.dev/services/network/internal/namespace"
)

// TestKilledProcessIsFollowedByAnother kills a process that makes a network, a step further each time, and lets the next
// one go on from there.
func TestKilledProcessIsFollowedByAnother(t *testing.T) {
	const marker = "ORLOP_TEST_NAMESPACE"
	if name := os.Getenv(marker); name != "" {
		options := freshOptions(t, "10.66.10.0/24")
		options.Namespace = name
		makeForever(options)
		return
	}
	options := freshOptions(t, "10.66.10.0/24")
	for lines := range 6 {
		command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		command.Env = append(os.Environ(), marker+"="+options.Namespace)
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		told := bufio.NewScanner(output)
		for seen := 0; seen < lines && told.Scan(); seen++ {
		}
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait() // killed, as intended

		next := started(t, options)
		for _, id := range []string{"vm1", "vm2"} {
			attach(t, next, attachment(id, "10.66.10."+id[2:]))
		}
		if guest := plugIn(t, next, card("vm2")); guest.lease(t, card("vm2")).String() != "10.66.10.2" {
			t.Errorf("after %d lines: vm2 was told another address", lines)
		}
		if err := next.Destroy(context.Background()); err != nil {
			t.Fatalf("after %d lines: %v", lines, err)
		}
	}
}

// makeForever makes and destroys a network, and tells each step, until it is killed or its reader is.
func makeForever(options Options) {
	ctx := context.Background()
	for {
		f, err := New(options)
		if err == nil {
			err = f.Ensure(ctx)
		}
		for i := 1; i <= 3 && err == nil; i++ {
			_, err = f.Attach(ctx, attachment("vm"+strconv.Itoa(i), "10.66.10."+strconv.Itoa(i)))
			if _, broken := fmt.Println("attached", i); broken != nil {
				return
			}
		}
		if err == nil {
			err = f.Destroy(ctx)
		}
		if _, broken := fmt.Println("destroyed", err); broken != nil || err != nil {
			return
		}
	}
}

// On the host's network nothing is routed, and nothing but the network's own devices is touched. A namespace plays the
// host: all calls come from one thread in it.
func TestHostNetworkIsLeftAsItWas(t *testing.T) {
	options := freshOptions(t, "10.66.10.0/24")
	options.Namespace = ""
	var before, after []string
	err := namespace.Fresh(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = "uplink"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
			return err
		}
		before = deviceNames(t)
		f, err := New(options)
		if err != nil {
			return err
		}
		if err := f.Ensure(context.Background()); err != nil {
			return err
		}
		port, err := f.Attach(context.Background(), attachment("web", "10.66.10.14"))
		if err != nil {
			return err
		}
		if port.Namespace != "" {
			t.Errorf("the tap is in %s", port.Namespace)
		}
		for _, setting := range []string{"ip_forward", "conf/all/forwarding", "conf/" + DefaultBridge + "/forwarding"} {
			value, err := os.ReadFile("/proc/sys/net/ipv4/" + setting)
			if err != nil || string(value) != "0\n" {
				t.Errorf("%s is %q, %v", setting, value, err)
			}
		}
		if made := deviceNames(t); len(made) != len(before)+2 {
			t.Errorf("devices are %v, were %v", made, before)
		}
		if err := f.Destroy(context.Background()); err != nil {
			return err
		}
		after = deviceNames(t)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("devices are %v, were %v", after, before)
	}
}

func deviceNames(t *testing.T) (names []string) {
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	return names
}
