package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"orlop.dev/deploy/guest/internal/netconfig"
	"orlop.dev/deploy/guest/internal/rootdisk"
	"orlop.dev/deploy/guest/internal/userdata"
)

// minGrowBytes is the gain below which resizing isn't worth a process.
const minGrowBytes = 16 << 20

// growRoot takes the space that the disk has beyond the image. Sizes decide, not
// what a boot did before, so that one cut short half way is made good.
func (g *Guest) growRoot(ctx context.Context) error {
	partition, bytes, err := rootdisk.Grow("/")
	if err != nil {
		return err
	}
	device, err := os.Open(partition)
	if err != nil {
		return err
	}
	defer device.Close()
	used, err := rootdisk.FileSystemBytes(device)
	if err != nil {
		return fmt.Errorf("%s: %w", partition, err)
	}
	// A file system ends on a whole block group, a little before its partition.
	if bytes-used < minGrowBytes {
		return nil
	}
	return g.run(ctx, []string{"/usr/sbin/resize2fs", partition})
}

// setHostname makes the short name the host's, and both resolvable.
func (g *Guest) setHostname(w wish) error {
	config := w.data.Config
	full := config.FQDN
	for _, name := range []string{config.Hostname, w.seed.Meta.Name()} {
		if full == "" {
			full = name
		}
	}
	if full == "" {
		return g.keepHostname()
	}
	short, _, _ := strings.Cut(full, ".")
	if config.Hostname != "" {
		short, _, _ = strings.Cut(config.Hostname, ".")
	}
	if err := unix.Sethostname([]byte(short)); err != nil {
		return fmt.Errorf("host name %s: %w", short, err)
	}
	names := short
	if full != short {
		names = full + " " + short
	}
	hosts := "127.0.0.1 localhost\n127.0.1.1 " + names + "\n::1 localhost ip6-localhost ip6-loopback\n"
	return errors.Join(writeFile("/etc/hostname", short+"\n", 0o644), writeFile("/etc/hosts", hosts, 0o644))
}

func (g *Guest) keepHostname() error {
	name, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	return unix.Sethostname([]byte(strings.TrimSpace(string(name))))
}

// setNetwork brings links up. A configuration that can't be read is an error,
// but leaves a guest that can be reached: by DHCP.
func (g *Guest) setNetwork(ctx context.Context, config []byte) error {
	links, err := netconfig.Links("/sys/class/net")
	if err != nil {
		return err
	}
	plan := netconfig.Default(links)
	var failure error
	if len(config) > 0 {
		parsed, err := netconfig.Parse(config, links)
		if err == nil {
			plan = parsed
		}
		failure = err
	}
	if len(plan.Ignored) > 0 {
		g.log.Warn("network-config has entries that this guest does not honour", "keys", plan.Ignored)
	}
	for _, arguments := range plan.Commands {
		failure = errors.Join(failure, g.run(ctx, append([]string{"/bin/ip"}, arguments...)))
	}
	for _, link := range plan.DHCP {
		failure = errors.Join(failure, startDHCP(link))
	}
	return errors.Join(failure, writeResolver(plan))
}

// startDHCP leaves a client behind that outlives this process; init adopts it.
func startDHCP(link string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	client := exec.Command("/bin/busybox", "udhcpc", "-f", "-i", link, "-x", "hostname:"+name,
		"-s", "/usr/share/udhcpc/default.script", "-t", "5", "-T", "2", "-A", "5")
	client.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := client.Start(); err != nil {
		return fmt.Errorf("DHCP on %s: %w", link, err)
	}
	return client.Process.Release()
}

func writeResolver(plan netconfig.Plan) error {
	if len(plan.Nameservers) == 0 {
		return nil
	}
	var text strings.Builder
	if len(plan.Search) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(plan.Search, " "))
	}
	for _, server := range plan.Nameservers {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	return writeFile("/etc/resolv.conf", text.String(), 0o644)
}

// writeLogin tells the ssh server who may log in how. The file is on disk, so
// that a guest that lost its seed keeps the choice.
func (g *Guest) writeLogin(config userdata.Config) error {
	if g.currentID() != "" && !config.SSHPasswordAuth.Given() && !config.DisableRoot.Given() {
		return nil
	}
	var options []string
	if !config.SSHPasswordAuth.Or(false) {
		options = append(options, "-s")
	}
	if config.DisableRoot.Or(true) {
		options = append(options, "-w")
	}
	return writeFile("/etc/dropbear/options", strings.Join(options, " ")+"\n", 0o644)
}

func (g *Guest) run(ctx context.Context, arguments []string) error {
	if len(arguments) == 0 {
		return nil
	}
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(arguments[0]), err)
	}
	return nil
}

func (g *Guest) runScript(ctx context.Context, number int, script []byte) error {
	path := filepath.Join(stateDir, "scripts", fmt.Sprintf("part-%03d", number))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := writeFile(path, string(script), 0o700); err != nil {
		return err
	}
	return g.run(ctx, []string{path})
}
