// Package netconfig turns a seed's network-config (version 2, the subset of
// netplan that cloud images get) into steps for the guest's links. It owns the
// syntax and the choice of link; it must not run anything.
package netconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrVersion says that the document is not version 2.
var ErrVersion = errors.New("network-config: only version 2 is read")

// Link is a network interface that the guest has.
type Link struct{ Name, MAC string }

// Plan is what is to be done, in order.
type Plan struct {
	// Commands are argument vectors of ip(8).
	Commands [][]string
	// DHCP names the links that get their address from a server.
	DHCP []string
	// Nameservers and Search go into resolv.conf.
	Nameservers, Search []string
	// Ignored names the keys and interfaces that nothing was done for.
	Ignored []string
}

type document struct {
	Version   int                 `yaml:"version"`
	Network   *document           `yaml:"network"`
	Ethernets map[string]ethernet `yaml:"ethernets"`
	Rest      map[string]any      `yaml:",inline"`
}

type ethernet struct {
	Match struct {
		MAC  string `yaml:"macaddress"`
		Name string `yaml:"name"`
	} `yaml:"match"`
	SetName     string    `yaml:"set-name"`
	DHCP4       bool      `yaml:"dhcp4"`
	Addresses   []address `yaml:"addresses"`
	Gateway4    string    `yaml:"gateway4"`
	Gateway6    string    `yaml:"gateway6"`
	Routes      []route   `yaml:"routes"`
	MTU         int       `yaml:"mtu"`
	Nameservers struct {
		Addresses []string `yaml:"addresses"`
		Search    []string `yaml:"search"`
	} `yaml:"nameservers"`
	Rest map[string]any `yaml:",inline"`
}

type route struct {
	To     string `yaml:"to"`
	Via    string `yaml:"via"`
	Metric int    `yaml:"metric"`
	OnLink bool   `yaml:"on-link"`
}

// address is "10.0.0.2/24". netplan also allows a map with options, whose key
// is the address.
type address string

func (a *address) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.MappingNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	prefix, err := netip.ParsePrefix(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*a = address(prefix.String())
	return nil
}

// Default asks a DHCP server on every link: what cloud images do when nothing
// is configured.
func Default(links []Link) Plan {
	var plan Plan
	for _, link := range links {
		plan.up(link.Name)
		plan.DHCP = append(plan.DHCP, link.Name)
	}
	return plan
}

// Parse reads network-config for the links that are there.
func Parse(raw []byte, links []Link) (Plan, error) {
	var doc document
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return Plan{}, fmt.Errorf("network-config: %w", err)
	}
	if doc.Network != nil {
		doc = *doc.Network
	}
	if doc.Version != 2 {
		return Plan{}, ErrVersion
	}
	var plan Plan
	plan.ignore("", doc.Rest)
	for _, id := range sortedKeys(doc.Ethernets) {
		settings := doc.Ethernets[id]
		plan.ignore(id+".", settings.Rest)
		matched := settings.matching(id, links)
		if len(matched) == 0 {
			plan.Ignored = append(plan.Ignored, id)
		}
		for _, link := range matched {
			plan.add(link, settings)
		}
	}
	return plan, nil
}

// quiet are keys whose wish is met by doing nothing.
var quiet = []string{"optional", "dhcp6", "accept-ra", "dhcp-identifier", "renderer"}

func (p *Plan) ignore(prefix string, keys map[string]any) {
	for _, key := range sortedKeys(keys) {
		if !slices.Contains(quiet, key) {
			p.Ignored = append(p.Ignored, prefix+key)
		}
	}
}

// matching picks the links that an entry is for. Without match its key is the
// link's name; a trailing * in a name stands for anything.
func (e ethernet) matching(id string, links []Link) []Link {
	name := e.Match.Name
	if name == "" && e.Match.MAC == "" {
		name = id
	}
	var found []Link
	for _, link := range links {
		macFits := e.Match.MAC == "" || strings.EqualFold(e.Match.MAC, link.MAC)
		if macFits && (name == "" || nameFits(name, link.Name)) {
			found = append(found, link)
		}
	}
	return found
}

func nameFits(pattern, name string) bool {
	if prefix, wild := strings.CutSuffix(pattern, "*"); wild {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

func (p *Plan) add(link Link, settings ethernet) {
	name := link.Name
	if settings.SetName != "" && settings.SetName != name {
		p.run("link", "set", "dev", name, "down")
		p.run("link", "set", "dev", name, "name", settings.SetName)
		name = settings.SetName
	}
	if settings.MTU > 0 {
		p.run("link", "set", "dev", name, "mtu", strconv.Itoa(settings.MTU))
	}
	p.up(name)
	for _, address := range settings.Addresses {
		p.run("addr", "replace", string(address), "dev", name)
	}
	for _, gateway := range []string{settings.Gateway4, settings.Gateway6} {
		if gateway != "" {
			p.route(name, route{To: "default", Via: gateway})
		}
	}
	for _, route := range settings.Routes {
		p.route(name, route)
	}
	if settings.DHCP4 {
		p.DHCP = append(p.DHCP, name)
	}
	p.Nameservers = append(p.Nameservers, settings.Nameservers.Addresses...)
	p.Search = append(p.Search, settings.Nameservers.Search...)
}

func (p *Plan) route(name string, r route) {
	command := []string{"route", "replace", r.To}
	if gateway, err := netip.ParseAddr(r.Via); err == nil && gateway.Is6() {
		command = append([]string{"-6"}, command...)
	}
	if r.Via != "" {
		command = append(command, "via", r.Via)
	}
	command = append(command, "dev", name)
	if r.OnLink {
		command = append(command, "onlink")
	}
	if r.Metric > 0 {
		command = append(command, "metric", strconv.Itoa(r.Metric))
	}
	p.run(command...)
}

func (p *Plan) up(name string) { p.run("link", "set", "dev", name, "up") }

func (p *Plan) run(arguments ...string) { p.Commands = append(p.Commands, arguments) }

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
