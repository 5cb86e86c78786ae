package endtoend_test

import (
	"strings"
	"testing"

	"orlop.dev/facade/home"
)

// TestIPv6 has a guest with an address of IPv6 alone, which it is told by its seed.
func TestIPv6(t *testing.T) {
	u := newUser(t)
	u.serveImage()
	u.up("--virtual-machine-cidrs", "fd66:66:10::/112")
	if !u.exists(home.Home(u.home).NetworkNamespace()) {
		t.Skip("guests' network of user mode has IPv4 only")
	}
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	address := u.address()
	if said := u.inGuest("cloud", "ip -6 addr show"); !strings.HasPrefix(address, "fd66:66:10::") || !strings.Contains(said, address+"/112") {
		t.Errorf("the VM has %s, and its guest\n%s", address, said)
	}
	if lease := u.kubectl("get", "vmipl", "-o", "name"); !strings.Contains(lease, "/ip-fd66-66-10-0-0-0-") {
		t.Errorf("the lease is %s", lease)
	}
	u.greeted(u.forward("22"))
}
