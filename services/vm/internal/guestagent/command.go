package guestagent

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
)

const (
	// maxText is the longest string taken over from a guest, in runes.
	maxText = 256
	// maxInterfaces and maxAddresses keep a lying guest out of our memory.
	maxInterfaces = 64
	maxAddresses  = 64
	// maxDisks is enough for disks with their partitions.
	maxDisks = 1024
)

// deviceName is what a Linux guest calls a disk.
var deviceName = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// OSInfo is what the guest says about its system (guest-get-osinfo). Any member
// may be empty; none is to be believed for a decision.
type OSInfo struct {
	ID            string // "debian", "mswindows"
	Name          string
	PrettyName    string
	Version       string
	VersionID     string
	KernelRelease string
	KernelVersion string
	Machine       string // "x86_64"
}

// Interface is one network interface inside the guest.
type Interface struct {
	Name      string
	MAC       net.HardwareAddr // nil if the guest names none
	Addresses []netip.Prefix
}

// ShutdownMode is how the guest is to end.
type ShutdownMode string

// The modes that guest-shutdown knows.
const (
	ModePowerdown ShutdownMode = "powerdown"
	ModeHalt      ShutdownMode = "halt"
	ModeReboot    ShutdownMode = "reboot"
)

// Ping returns nil when the agent answers.
func (c *Client) Ping(ctx context.Context) error {
	return c.execute(ctx, "guest-ping", nil)
}

// Version asks for the agent's own version, such as "7.2.22".
func (c *Client) Version(ctx context.Context) (string, error) {
	var info struct {
		Version string `json:"version"`
	}
	if err := c.execute(ctx, "guest-info", &info); err != nil {
		return "", err
	}
	return clean(info.Version), nil
}

// OSInfo asks what system runs in the guest.
func (c *Client) OSInfo(ctx context.Context) (OSInfo, error) {
	var info struct {
		ID            string `json:"id"`
		Name          string `json:"name"`
		PrettyName    string `json:"pretty-name"`
		Version       string `json:"version"`
		VersionID     string `json:"version-id"`
		KernelRelease string `json:"kernel-release"`
		KernelVersion string `json:"kernel-version"`
		Machine       string `json:"machine"`
	}
	if err := c.execute(ctx, "guest-get-osinfo", &info); err != nil {
		return OSInfo{}, err
	}
	return OSInfo{
		ID: clean(info.ID), Name: clean(info.Name), PrettyName: clean(info.PrettyName),
		Version: clean(info.Version), VersionID: clean(info.VersionID),
		KernelRelease: clean(info.KernelRelease), KernelVersion: clean(info.KernelVersion),
		Machine: clean(info.Machine),
	}, nil
}

// NetworkInterfaces asks for the guest's interfaces and addresses. What can't
// be parsed is left out.
func (c *Client) NetworkInterfaces(ctx context.Context) ([]Interface, error) {
	var answer []struct {
		Name      string `json:"name"`
		MAC       string `json:"hardware-address"`
		Addresses []struct {
			Address string `json:"ip-address"`
			Prefix  int    `json:"prefix"`
		} `json:"ip-addresses"`
	}
	if err := c.execute(ctx, "guest-network-get-interfaces", &answer); err != nil {
		return nil, err
	}
	var interfaces []Interface
	for _, a := range answer[:min(len(answer), maxInterfaces)] {
		one := Interface{Name: clean(a.Name)}
		one.MAC, _ = net.ParseMAC(a.MAC)
		for _, address := range a.Addresses[:min(len(a.Addresses), maxAddresses)] {
			ip, err := netip.ParseAddr(address.Address)
			if err != nil {
				continue
			}
			// A zone names an interface of the guest, which is nothing here.
			if prefix := netip.PrefixFrom(ip.WithZone(""), address.Prefix); prefix.IsValid() {
				one.Addresses = append(one.Addresses, prefix)
			}
		}
		interfaces = append(interfaces, one)
	}
	return interfaces, nil
}

// Disks asks for the names of the guest's disks and CD-ROMs, such as sda, by
// their serials (guest-get-disks). A guest without udev knows none.
func (c *Client) Disks(ctx context.Context) (map[string]string, error) {
	var answer []struct {
		Name      string `json:"name"`
		Partition bool   `json:"partition"`
		Address   struct {
			Serial string `json:"serial"`
		} `json:"address"`
	}
	if err := c.execute(ctx, "guest-get-disks", &answer); err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, a := range answer[:min(len(answer), maxDisks)] {
		name, isDevice := strings.CutPrefix(a.Name, "/dev/")
		if serial := clean(a.Address.Serial); isDevice && !a.Partition && serial != "" && deviceName.MatchString(name) {
			names[serial] = name
		}
	}
	return names, nil
}

// FreezeFilesystems brings the guest's file systems to rest (guest-fsfreeze-freeze),
// and tells how many. Whatever comes of it, ThawFilesystems must follow: an agent
// that doesn't answer may freeze them later.
func (c *Client) FreezeFilesystems(ctx context.Context) (int, error) {
	var count int
	err := c.executeWithin(ctx, freezePatience, "guest-fsfreeze-freeze", &count)
	return count, err
}

// ThawFilesystems lets them go on (guest-fsfreeze-thaw), and tells how many were
// frozen until then. Repeating it is harmless.
func (c *Client) ThawFilesystems(ctx context.Context) (int, error) {
	var count int
	err := c.execute(ctx, "guest-fsfreeze-thaw", &count)
	return count, err
}

// Shutdown tells the agent to end the guest, and doesn't wait: the agent
// answers only a refusal, so that nil means the request was written. QMP tells
// when the guest is down.
func (c *Client) Shutdown(ctx context.Context, mode ShutdownMode) error {
	return c.tell(ctx, "guest-shutdown", map[string]ShutdownMode{"mode": mode})
}

// clean makes a guest's string fit for logs, terminals and statuses.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "")
	var kept strings.Builder
	count := 0
	for _, r := range text {
		if !unicode.IsPrint(r) {
			continue
		}
		if count++; count > maxText {
			break
		}
		kept.WriteRune(r)
	}
	return kept.String()
}
