package netconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Links lists the interfaces that stand for a device, below /sys/class/net;
// the loopback and what software made are left out.
func Links(sysNet string) ([]Link, error) {
	entries, err := os.ReadDir(sysNet)
	if err != nil {
		return nil, fmt.Errorf("network interfaces: %w", err)
	}
	var links []Link
	for _, entry := range entries {
		folder := filepath.Join(sysNet, entry.Name())
		if _, err := os.Stat(filepath.Join(folder, "device")); err != nil {
			continue
		}
		mac, err := os.ReadFile(filepath.Join(folder, "address"))
		if err != nil {
			return nil, fmt.Errorf("network interfaces: %w", err)
		}
		links = append(links, Link{Name: entry.Name(), MAC: strings.TrimSpace(string(mac))})
	}
	return links, nil
}
