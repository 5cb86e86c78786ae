package netconfig_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"orlop.dev/deploy/guest/internal/netconfig"
)

var links = []netconfig.Link{{Name: "eth0", MAC: "52:54:00:aa:00:01"}, {Name: "eth1", MAC: "52:54:00:aa:00:02"}}

func TestParsePlans(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       netconfig.Plan
	}{
		{
			name: "DHCP by link name",
			text: "version: 2\nethernets: {eth0: {dhcp4: true, optional: true}}",
			want: netconfig.Plan{Commands: [][]string{{"link", "set", "dev", "eth0", "up"}}, DHCP: []string{"eth0"}},
		},
		{
			name: "DHCP by pattern, below network",
			text: "network: {version: 2, ethernets: {all: {match: {name: 'eth*'}, dhcp4: true}}}",
			want: netconfig.Plan{
				Commands: [][]string{{"link", "set", "dev", "eth0", "up"}, {"link", "set", "dev", "eth1", "up"}},
				DHCP:     []string{"eth0", "eth1"},
			},
		},
		{
			name: "static, chosen by MAC in capitals",
			text: `
version: 2
ethernets:
  any:
    match: {macaddress: 52:54:00:AA:00:02}
    set-name: lan
    mtu: 1400
    addresses: [10.66.10.14/24, {"fd00::2/64": {lifetime: 0}}]
    gateway4: 10.66.10.1
    routes: [{to: 192.168.0.0/16, via: 10.66.10.9, metric: 5, on-link: true}, {to: "::/0", via: "fd00::1"}]
    nameservers: {addresses: [10.66.10.1], search: [a.example]}`,
			want: netconfig.Plan{
				Commands: [][]string{
					{"link", "set", "dev", "eth1", "down"},
					{"link", "set", "dev", "eth1", "name", "lan"},
					{"link", "set", "dev", "lan", "mtu", "1400"},
					{"link", "set", "dev", "lan", "up"},
					{"addr", "replace", "10.66.10.14/24", "dev", "lan"},
					{"addr", "replace", "fd00::2/64", "dev", "lan"},
					{"route", "replace", "default", "via", "10.66.10.1", "dev", "lan"},
					{"route", "replace", "192.168.0.0/16", "via", "10.66.10.9", "dev", "lan", "onlink", "metric", "5"},
					{"-6", "route", "replace", "::/0", "via", "fd00::1", "dev", "lan"},
				},
				Nameservers: []string{"10.66.10.1"}, Search: []string{"a.example"},
			},
		},
		{
			name: "what is not honoured is named",
			text: "version: 2\nbonds: {}\nethernets: {eth0: {wakeonlan: true}, eth9: {dhcp4: true}}",
			want: netconfig.Plan{
				Commands: [][]string{{"link", "set", "dev", "eth0", "up"}},
				Ignored:  []string{"bonds", "eth0.wakeonlan", "eth9"},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := netconfig.Parse([]byte(test.text), links)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	if _, err := netconfig.Parse([]byte("version: 1\nconfig: []"), links); !errors.Is(err, netconfig.ErrVersion) {
		t.Errorf("version 1: got %v", err)
	}
	if _, err := netconfig.Parse([]byte("version: 2\nethernets: {eth0: {addresses: [10.0.0.1]}}"), links); err == nil {
		t.Error("an address without its prefix length was accepted")
	}
}

func TestLinksLeavesOutWhatSoftwareMade(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"lo", "dummy0", "eth0/device"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "eth0/address"), []byte("52:54:00:aa:00:01\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := netconfig.Links(dir)
	if err != nil || !reflect.DeepEqual(got, links[:1]) {
		t.Errorf("got %+v, %v", got, err)
	}
}
