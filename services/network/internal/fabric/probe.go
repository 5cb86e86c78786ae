package fabric

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"orlop.dev/services/network/internal/namespace"
)

// Probe finds out how guests can be connected on this machine, by making a bridge and a tap in a namespace that is gone
// when it returns. The sentence says why, and what would change it.
func Probe() (Mode, string) {
	err := namespace.Fresh(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = "probe"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		tap, err := openTap("probetap")
		if err != nil {
			return fmt.Errorf("make a tap: %w", err)
		}
		return unix.Close(tap)
	})
	switch {
	case err == nil:
		return Tap, "Guests are on a bridge of their own, each reached by its address."
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return User, fmt.Sprintf("Guests use QEMU's user-mode network and are reached through forwarded ports, because user %d "+
			"may not %v. As root, or with CAP_SYS_ADMIN and CAP_NET_ADMIN, they would be on a bridge.", os.Geteuid(), err)
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		return User, fmt.Sprintf("Guests use QEMU's user-mode network and are reached through forwarded ports, because the "+
			"kernel can't %v. With its module tun loaded they would be on a bridge.", err)
	}
	return User, fmt.Sprintf("Guests use QEMU's user-mode network and are reached through forwarded ports, because this "+
		"machine can't %v.", err)
}
