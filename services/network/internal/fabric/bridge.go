package fabric

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"orlop.dev/services/network/internal/address"
)

// routeProtocol marks the routes that are ours in the kernel's table; numbers from 4 on are free for all, see
// rtnetlink(7).
const routeProtocol netlink.RouteProtocol = 111

// ensureBridge runs in the namespace, as does all that follows in this file.
func (f *Fabric) ensureBridge() (netlink.Link, error) {
	bridge, err := f.findBridge()
	if errors.Is(err, ErrMissing) {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = f.options.Bridge
		attributes.HardwareAddr = f.bridgeMAC()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", f.options.Bridge, err)
		}
		bridge, err = f.findBridge()
	}
	if err != nil {
		return nil, err
	}
	if err := f.configureBridge(bridge); err != nil {
		return nil, fmt.Errorf("configure bridge %s: %w", f.options.Bridge, err)
	}
	return bridge, nil
}

// findBridge returns ErrMissing if there is no device of that name and a *ForeignError if it isn't ours, which the MAC
// tells: it is given in the same call that makes the bridge, so that no half-made bridge is ever taken for a foreign one.
func (f *Fabric) findBridge() (netlink.Link, error) {
	link, err := netlink.LinkByName(f.options.Bridge)
	if isMissing(err) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, err
	}
	if link.Type() != "bridge" || !bytes.Equal(link.Attrs().HardwareAddr, f.bridgeMAC()) {
		return nil, &ForeignError{Device: f.options.Bridge}
	}
	return link, nil
}

// bridgeMAC is fixed: the kernel would take the lowest of the taps' for a bridge without one of its own, and guests
// would lose their gateway whenever a tap comes or goes.
func (f *Fabric) bridgeMAC() net.HardwareAddr {
	hash := sha256.Sum256([]byte("bridge " + f.options.Namespace + " " + f.options.Bridge))
	mac := net.HardwareAddr(hash[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// BridgeMAC is the address of this machine's end, which no guest may have.
func (f *Fabric) BridgeMAC() address.MAC { return address.MAC(f.bridgeMAC()) }

func (f *Fabric) configureBridge(bridge netlink.Link) error {
	if err := f.configureDevice(bridge); err != nil {
		return err
	}
	if err := f.tune(); err != nil {
		return err
	}
	if err := f.ensureAddresses(bridge); err != nil {
		return err
	}
	return f.ensureRoutes(bridge)
}

// configureDevice gives a device of the network its MTU and switches it on.
func (f *Fabric) configureDevice(link netlink.Link) error {
	if link.Attrs().MTU != f.options.MTU {
		if err := netlink.LinkSetMTU(link, f.options.MTU); err != nil {
			return err
		}
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	return netlink.LinkSetUp(link)
}

// tune sets how the kernel treats the bridge. Between guests of several CIDRs it routes only in a namespace of our own,
// from where there is no way out; on the host, routing what guests send is the owner's decision.
func (f *Fabric) tune() error {
	bridge := f.options.Bridge
	settings := map[string]string{
		"ipv4/conf/" + bridge + "/proxy_arp": "1", // for the CIDR's twin: see address.Subnet
	}
	if !f.space.Host() {
		settings["ipv4/conf/"+bridge+"/forwarding"] = "1"
		settings["ipv4/conf/"+bridge+"/send_redirects"] = "0" // Both of these: the kernel takes the greater.
		settings["ipv4/conf/all/send_redirects"] = "0"
	}
	for name, value := range settings {
		if err := setKernel(name, value); err != nil {
			return err
		}
	}
	return nil
}

// setKernel writes a setting of the calling thread's network namespace.
func setKernel(name, value string) error {
	path := filepath.Join("/proc/sys/net", name)
	current, err := os.ReadFile(path)
	if err == nil && string(bytes.TrimSpace(current)) == value {
		return nil // Also where /proc/sys is read-only and somebody else saw to it.
	}
	return os.WriteFile(path, []byte(value), 0)
}

// ensureAddresses gives the bridge the gateways and takes away what it had under another configuration. The addresses
// have no subnet: the routes decide which guests are here.
func (f *Fabric) ensureAddresses(bridge netlink.Link) error {
	wanted := map[netip.Addr]bool{}
	for _, subnet := range f.options.Pool.Subnets() {
		wanted[subnet.Gateway] = true
	}
	present, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, address := range present {
		ip, _ := netip.AddrFromSlice(address.IP)
		ip = ip.Unmap()
		switch {
		case ip.IsLinkLocalUnicast():
		case wanted[ip]:
			delete(wanted, ip)
		default:
			if err := netlink.AddrDel(bridge, &address); err != nil {
				return err
			}
		}
	}
	for gateway := range wanted {
		// Without duplicate address detection, as a bridge without guests would never end it.
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(gateway, gateway.BitLen())), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(bridge, address); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fabric) ensureRoutes(bridge netlink.Link) error {
	wanted := map[netip.Prefix]bool{}
	for prefix, source := range f.routes() {
		wanted[prefix] = true
		route := &netlink.Route{
			LinkIndex: bridge.Attrs().Index, Dst: ipNet(prefix), Src: source.AsSlice(),
			Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s: %w", prefix, err)
		}
	}
	present, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, route := range present {
		if route.Protocol != routeProtocol || route.Dst == nil || wanted[prefixOf(route.Dst)] {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// routes are the networks behind the bridge, and the addresses that this machine has for them.
func (f *Fabric) routes() map[netip.Prefix]netip.Addr {
	routes := map[netip.Prefix]netip.Addr{}
	for _, subnet := range f.options.Pool.Subnets() {
		routes[subnet.Prefix] = subnet.Gateway
	}
	if source := f.options.Pool.Gateway4(); source.IsValid() && !f.space.Host() {
		for _, prefix := range f.options.Virtual {
			routes[prefix] = source
		}
	}
	return routes
}

func isMissing(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// dump asks the kernel for a list again when the list changed while it was told.
func dump[T any](list func() ([]T, error)) (items []T, err error) {
	const attempts = 10
	for range attempts {
		if items, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return items, err
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func prefixOf(network *net.IPNet) netip.Prefix {
	address, _ := netip.AddrFromSlice(network.IP)
	length, _ := network.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), length)
}
