// Package cloudinit writes the seed from which cloud-init configures a guest at
// its first boot: a NoCloud volume, labelled "cidata", with user-data,
// meta-data and network-config (version 2).
//
// It owns the documents. It must not know machines, Secrets or leases: callers hand in plain values. User data may hold
// passwords, so nothing of a Seed ever goes into an error.
package cloudinit

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"

	"orlop.dev/kit/durable"
	"orlop.dev/services/vm/internal/iso9660"
)

// maxUserData is what the writer takes, in bytes; the limits of the API are
// lower and not this package's.
const maxUserData = 16 << 20

// ErrInvalid is a Seed that can't be written; the error that wraps it names the
// field, never its value.
var ErrInvalid = errors.New("invalid cloud-init seed")

// Seed is what one guest is told.
type Seed struct {
	// InstanceID tells cloud-init whether this is a first boot: with a new one
	// it configures the guest anew. Letters, digits, '-', '_' and '.'.
	InstanceID string
	// LocalHostname is the guest's host name (RFC 1123, may be qualified).
	LocalHostname string
	// UserData is passed on as it is: "#cloud-config", "#!", MIME, or empty.
	UserData []byte
	// Network is left to the guest's own defaults if it names no interface.
	Network []Interface
}

// Interface is one network interface, found in the guest by its MAC address.
type Interface struct {
	MAC net.HardwareAddr
	// DHCP4 asks for an address by DHCP; otherwise Addresses are set.
	DHCP4       bool
	Addresses   []netip.Prefix
	Gateway     netip.Addr // none if zero
	Nameservers []netip.Addr
	MTU         int // the guest's default if zero
}

// Image gives the volume's bytes: the same Seed gives the same bytes.
func (s Seed) Image() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	files := []iso9660.File{
		{Name: "meta-data", Content: s.metaData()},
		{Name: "user-data", Content: s.UserData},
	}
	if len(s.Network) > 0 {
		files = append(files, iso9660.File{Name: "network-config", Content: s.networkConfig()})
	}
	return iso9660.Image("cidata", files)
}

// Write puts the volume at path, readable by the owner only, replacing what was
// there in one step. Repeating it is harmless.
func Write(path string, s Seed) error {
	content, err := s.Image()
	if err != nil {
		return err
	}
	return durable.WriteFile(path, content, 0o600)
}

var (
	instancePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	hostnamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
)

func (s Seed) validate() error {
	invalid := func(field, want string) error { return fmt.Errorf("%w: %s: %s", ErrInvalid, field, want) }
	switch {
	case !instancePattern.MatchString(s.InstanceID):
		return invalid("instance ID", "want 1 to 128 letters, digits, '.', '_' or '-'")
	case len(s.LocalHostname) > 253 || !hostnamePattern.MatchString(s.LocalHostname):
		return invalid("host name", "want RFC 1123 labels")
	case len(s.UserData) > maxUserData:
		return invalid("user data", "want at most 16 MiB")
	}
	for i, n := range s.Network {
		field := "interface " + strconv.Itoa(i)
		switch {
		case len(n.MAC) != 6:
			return invalid(field, "want a 48-bit MAC address")
		case !n.DHCP4 && len(n.Addresses) == 0:
			return invalid(field, "want DHCP or an address")
		case n.MTU < 0:
			return invalid(field, "want an MTU of 0 or more")
		}
		for _, address := range n.Addresses {
			if !address.IsValid() {
				return invalid(field, "want valid addresses")
			}
		}
	}
	return nil
}

func (s Seed) metaData() []byte {
	return fmt.Appendf(nil, "instance-id: %q\nlocal-hostname: %q\n", s.InstanceID, s.LocalHostname)
}

// networkConfig writes cloud-init's version 2, in block style with one item a
// line so that small guests without a YAML parser can read it too. Addresses
// are quoted: YAML 1.1 reads 52:54:00:12:34:56 as a number to base 60.
func (s Seed) networkConfig() []byte {
	var b bytes.Buffer
	b.WriteString("version: 2\nethernets:\n")
	for i, n := range s.Network {
		fmt.Fprintf(&b, "  nic%d:\n    match:\n      macaddress: %q\n    dhcp4: %t\n", i, n.MAC.String(), n.DHCP4)
		if n.MTU > 0 {
			fmt.Fprintf(&b, "    mtu: %d\n", n.MTU)
		}
		if len(n.Addresses) > 0 {
			b.WriteString("    addresses:\n")
			for _, address := range n.Addresses {
				fmt.Fprintf(&b, "      - %q\n", address)
			}
		}
		if n.Gateway.IsValid() {
			// The long form of "default", which older renderers know too.
			everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if n.Gateway.Is6() {
				everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			fmt.Fprintf(&b, "    routes:\n      - to: %q\n        via: %q\n", everywhere, n.Gateway)
		}
		if len(n.Nameservers) > 0 {
			b.WriteString("    nameservers:\n      addresses:\n")
			for _, server := range n.Nameservers {
				fmt.Fprintf(&b, "        - %q\n", server)
			}
		}
	}
	return b.Bytes()
}
