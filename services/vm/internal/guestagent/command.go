package guestagent

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
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
	// maxUsers and maxFilesystems are more than people want to read.
	maxUsers       = 256
	maxFilesystems = 256
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

// needed are the commands that the platform's own work takes.
var needed = []string{"guest-get-osinfo", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}

// Info is what an agent is.
type Info struct {
	Version string // such as "7.2.22"
	// Lacks are commands that are needed and that it does not have, or may not do.
	Lacks []string
}

// Info asks what the agent is (guest-info).
func (c *Client) Info(ctx context.Context) (Info, error) {
	var answer struct {
		Version  string `json:"version"`
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := c.execute(ctx, "guest-info", &answer); err != nil {
		return Info{}, err
	}
	able := map[string]bool{}
	for _, command := range answer.Commands {
		able[command.Name] = command.Enabled
	}
	info := Info{Version: clean(answer.Version)}
	for _, command := range needed {
		if !able[command] {
			info.Lacks = append(info.Lacks, command)
		}
	}
	return info, nil
}

// User is somebody who is logged in.
type User struct {
	Name, Domain string
	Since        time.Time
}

// Users asks who is logged in (guest-get-users).
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var answer []struct {
		User   string  `json:"user"`
		Domain string  `json:"domain"`
		Login  float64 `json:"login-time"` // seconds
	}
	if err := c.execute(ctx, "guest-get-users", &answer); err != nil {
		return nil, err
	}
	var users []User
	for _, a := range answer[:min(len(answer), maxUsers)] {
		users = append(users, User{Name: clean(a.User), Domain: clean(a.Domain), Since: time.UnixMilli(int64(a.Login * 1000))})
	}
	return users, nil
}

// Filesystem is one that is mounted. Bytes are 0 where the agent can't tell.
type Filesystem struct {
	Device, Mountpoint, Type string
	TotalBytes, UsedBytes    int64
}

// Filesystems asks what is mounted where (guest-get-fsinfo).
func (c *Client) Filesystems(ctx context.Context) ([]Filesystem, error) {
	var answer []struct {
		Name       string `json:"name"`
		Mountpoint string `json:"mountpoint"`
		Type       string `json:"type"`
		Total      int64  `json:"total-bytes"`
		Used       int64  `json:"used-bytes"`
	}
	if err := c.execute(ctx, "guest-get-fsinfo", &answer); err != nil {
		return nil, err
	}
	var filesystems []Filesystem
	for _, a := range answer[:min(len(answer), maxFilesystems)] {
		filesystems = append(filesystems, Filesystem{
			Device: clean(a.Name), Mountpoint: clean(a.Mountpoint), Type: clean(a.Type),
			TotalBytes: max(a.Total, 0), UsedBytes: max(a.Used, 0),
		})
	}
	return filesystems, nil
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

// SetClock sets the guest's clock to this host's (guest-set-time).
func (c *Client) SetClock(ctx context.Context) error {
	const command = "guest-set-time"
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.inTurn(ctx, command, func(s *stream) error {
		return s.ask(command, map[string]int64{"time": time.Now().UnixNano()}, nil)
	})
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
