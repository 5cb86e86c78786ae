package fabric

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	maxDeviceName = unix.IFNAMSIZ - 1
	tunDevice     = "/dev/net/tun"
	noteVersion   = "orlop1" // first word of a tap's alias
	noHostname    = "-"
)

// tapName is a device name that only this ID has on this node, in this network: "orl" and 48 bits of a hash. The bridge
// is hashed too, so that two networks on the host don't take each other's taps.
func (f *Fabric) tapName(at place) string {
	hash := sha256.Sum256([]byte(strings.TrimSpace("tap " + f.options.Bridge + " " + at.id + " " + at.node)))
	return fmt.Sprintf("orl%x", hash[:6])
}

// note is what a tap's alias says of its attachment. Its longest form just fits the kernel's 255 bytes.
func (a Attachment) note() string {
	name := a.Hostname
	if name == "" {
		name = noHostname
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %x %s %s %s", noteVersion, a.ID, []byte(a.MAC), a.Address, name, a.Node))
}

func parseNote(note string) (Attachment, bool) {
	words := strings.Fields(note)
	if len(words) < 5 || len(words) > 6 || words[0] != noteVersion {
		return Attachment{}, false
	}
	node := ""
	if len(words) == 6 {
		node = words[5]
	}
	var mac []byte
	if _, err := fmt.Sscanf(words[2], "%x", &mac); err != nil {
		return Attachment{}, false
	}
	address, err := netip.ParseAddr(words[3])
	if err != nil {
		return Attachment{}, false
	}
	a := Attachment{ID: words[1], Node: node, MAC: net.HardwareAddr(mac), Address: address, Hostname: words[4]}
	if a.Hostname == noHostname {
		a.Hostname = ""
	}
	return a, a.Validate() == nil
}

// ensureTap makes the tap of an attachment, or corrects the one that is there without interrupting who holds it.
func (f *Fabric) ensureTap(bridge netlink.Link, a Attachment) error {
	name := f.tapName(a.place())
	tap, err := netlink.LinkByName(name)
	if isMissing(err) {
		if err := makeTap(name, a.note()); err != nil {
			return fmt.Errorf("make tap %s: %w", name, err)
		}
		tap, err = netlink.LinkByName(name)
	}
	if err != nil {
		return err
	}
	former, ours := f.attachmentOf(tap)
	if !ours {
		return &ForeignError{Device: name}
	}
	if former.note() != a.note() {
		if err := netlink.LinkSetAlias(tap, a.note()); err != nil {
			return fmt.Errorf("note on tap %s: %w", name, err)
		}
	}
	return f.configureTap(bridge, tap)
}

func (f *Fabric) configureTap(bridge, tap netlink.Link) error {
	name := tap.Attrs().Name
	// The host has no business of its own on a tap: no IPv6 address, no router solicitations into the guest.
	if err := setKernel("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("configure tap %s: %w", name, err)
	}
	if tap.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := netlink.LinkSetMaster(tap, bridge); err != nil {
			return fmt.Errorf("plug tap %s into its bridge: %w", name, err)
		}
	}
	if err := f.configureDevice(tap); err != nil {
		return fmt.Errorf("configure tap %s: %w", name, err)
	}
	return nil
}

// makeTap makes a tap that outlives the process. It becomes persistent last: one that is not yet ours by its note
// vanishes with a process killed in between.
func makeTap(name, note string) error {
	tap, err := openTap(name)
	if err != nil {
		return err
	}
	defer unix.Close(tap)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, note); err != nil {
		return err
	}
	return unix.IoctlSetInt(tap, unix.TUNSETPERSIST, 1)
}

// openTap holds the tap of that name, making it if there is none, as QEMU does. The error is EBUSY if somebody holds it.
func openTap(name string) (int, error) {
	file, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(file, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(file)
		return -1, err
	}
	return file, nil
}

// attachmentOf reads a tap's note; not ours is what has none, is no tap, or has another network's name.
func (f *Fabric) attachmentOf(link netlink.Link) (Attachment, bool) {
	tap, isTap := link.(*netlink.Tuntap)
	if !isTap || tap.Mode != netlink.TUNTAP_MODE_TAP {
		return Attachment{}, false
	}
	a, valid := parseNote(link.Attrs().Alias)
	return a, valid && f.tapName(a.place()) == link.Attrs().Name
}

// removeTap removes the tap of a place, if there is one.
func (f *Fabric) removeTap(at place) error {
	name := f.tapName(at)
	tap, err := netlink.LinkByName(name)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ours := f.attachmentOf(tap); !ours {
		return &ForeignError{Device: name}
	}
	return remove(tap)
}

func remove(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// ensurePorts learns what is attached from the taps, and makes again the taps that somebody removed.
func (f *Fabric) ensurePorts(bridge netlink.Link) error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return err
	}
	for _, link := range links {
		a, ours := f.attachmentOf(link)
		if _, known := f.register.get(a.place()); ours && !known {
			f.register.put(a)
		}
	}
	attachments := f.register.all()
	if err := f.filterAll(attachments); err != nil {
		return err
	}
	for _, a := range attachments {
		if err := f.ensureTap(bridge, a); err != nil {
			return err
		}
	}
	return introduceAll(bridge, attachments)
}

// removeLinks removes all devices of this network, and none else.
func (f *Fabric) removeLinks() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return err
	}
	for _, link := range links {
		if _, ours := f.attachmentOf(link); ours {
			if err := remove(link); err != nil {
				return err
			}
		}
	}
	if err := f.removeFilter(); err != nil {
		return err
	}
	bridge, err := f.findBridge()
	var foreign *ForeignError
	switch {
	case errors.Is(err, ErrMissing) || errors.As(err, &foreign):
		return nil
	case err != nil:
		return err
	}
	return remove(bridge)
}
