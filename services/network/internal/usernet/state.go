package usernet

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	"orlop.dev/kit/durable"
	"orlop.dev/services/network/internal/fabric"
)

// A record is a guest as the state file has it.
type record struct {
	ID       string            `json:"id"`
	MAC      string            `json:"mac"`
	Address  netip.Addr        `json:"address"`
	Hostname string            `json:"hostname,omitempty"`
	Forwards map[uint16]uint16 `json:"forwards"` // guest's port to port of this machine
}

// load reads the state file; there is no guest where there is no file.
func load(path string) (map[string]guest, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]guest{}, nil
	}
	if err != nil {
		return nil, err
	}
	var records []record
	if err := json.Unmarshal(content, &records); err != nil {
		return nil, err
	}
	guests := make(map[string]guest, len(records))
	for _, r := range records {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil {
			return nil, err
		}
		g := guest{Attachment: fabric.Attachment{ID: r.ID, MAC: mac, Address: r.Address, Hostname: r.Hostname}}
		for _, port := range slices.Sorted(maps.Keys(r.Forwards)) {
			host := netip.AddrPortFrom(loopback, r.Forwards[port])
			g.forwards = append(g.forwards, fabric.Forward{Host: host, Guest: port})
		}
		guests[r.ID] = g
	}
	return guests, nil
}

// remember makes a guest, or the lack of one, durable before it is known.
func (n *Network) remember(id string, g *guest) error {
	changed := maps.Clone(n.guests)
	delete(changed, id)
	if g != nil {
		changed[id] = *g
	}
	if err := save(n.options.State, changed); err != nil {
		return err
	}
	n.guests = changed
	return nil
}

// save replaces the state file at once, so that a killed process leaves the old one or the new one.
func save(path string, guests map[string]guest) error {
	records := make([]record, 0, len(guests))
	for _, id := range sortedIDs(guests) {
		g := guests[id]
		r := record{ID: g.ID, MAC: g.MAC.String(), Address: g.Address, Hostname: g.Hostname, Forwards: map[uint16]uint16{}}
		for _, forward := range g.forwards {
			r.Forwards[forward.Guest] = forward.Host.Port()
		}
		records = append(records, r)
	}
	content, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, content, 0o600)
}

func sortedIDs(guests map[string]guest) []string { return slices.Sorted(maps.Keys(guests)) }
