package cloudinit_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orlop.dev/services/vm/internal/cloudinit"
)

func seed() cloudinit.Seed {
	return cloudinit.Seed{
		InstanceID:    "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
		LocalHostname: "linux-vm",
		UserData:      []byte("#cloud-config\nssh_pwauth: true\n"),
		Network: []cloudinit.Interface{{
			MAC:         net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56},
			Addresses:   []netip.Prefix{netip.MustParsePrefix("10.66.10.14/24")},
			Gateway:     netip.MustParseAddr("10.66.10.1"),
			Nameservers: []netip.Addr{netip.MustParseAddr("10.66.10.1")},
			MTU:         1450,
		}},
	}
}

const (
	wantMetaData = `instance-id: "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
local-hostname: "linux-vm"
`
	wantNetwork = `version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:12:34:56"
    dhcp4: false
    mtu: 1450
    addresses:
      - "10.66.10.14/24"
    routes:
      - to: "0.0.0.0/0"
        via: "10.66.10.1"
    nameservers:
      addresses:
        - "10.66.10.1"
`
)

// read extracts a file from the volume with isoinfo, by its Rock Ridge (-R) or
// Joliet (-J) name: a reader that is not ours.
func read(t *testing.T, path, names, file string) string {
	t.Helper()
	if _, err := exec.LookPath("isoinfo"); err != nil {
		t.Skip("isoinfo (package genisoimage) is not installed")
	}
	out, err := exec.Command("isoinfo", "-i", path, names, "-x", file).Output()
	if err != nil {
		t.Fatalf("isoinfo %s %s: %v", names, file, err)
	}
	return string(out)
}

func write(t *testing.T, s cloudinit.Seed) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := cloudinit.Write(path, s); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheVolumeReadsBackByRockRidgeAndJolietNames(t *testing.T) {
	s := seed()
	s.UserData = append(s.UserData, bytes.Repeat([]byte("# more than one sector\n"), 500)...)
	path := write(t, s)
	want := map[string]string{
		"/user-data":      string(s.UserData),
		"/meta-data":      wantMetaData,
		"/network-config": wantNetwork,
	}
	for _, names := range []string{"-R", "-J"} {
		for file, content := range want {
			if got := read(t, path, names, file); got != content {
				t.Errorf("%s %s: %q", names, file, got)
			}
		}
	}
}

func TestTheVolumeIsLabelledForNoCloud(t *testing.T) {
	path := write(t, seed())
	out, err := exec.Command("blkid", "-p", "-o", "export", path).Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("blkid is not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"LABEL=cidata", "TYPE=iso9660"} {
		if !strings.Contains(string(out), line+"\n") {
			t.Errorf("no %s in %q", line, out)
		}
	}
}

func TestFilesAreForRootInTheGuestAlone(t *testing.T) {
	path := write(t, seed())
	read(t, path, "-R", "/user-data")
	out, err := exec.Command("isoinfo", "-i", path, "-R", "-l").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(out), "-r--------"); got != 3 {
		t.Errorf("%d files with mode 0400 in\n%s", got, out)
	}
}

func TestWithoutInterfacesThereIsNoNetworkConfig(t *testing.T) {
	s := seed()
	s.Network, s.UserData = nil, nil
	path := write(t, s)
	if got := read(t, path, "-R", "/meta-data"); got != wantMetaData {
		t.Errorf("meta-data %q", got)
	}
	if got := read(t, path, "-R", "/user-data") + read(t, path, "-R", "/network-config"); got != "" {
		t.Errorf("unexpected content %q", got)
	}
}

func TestDHCPNeedsNoAddress(t *testing.T) {
	s := seed()
	s.Network = []cloudinit.Interface{{MAC: s.Network[0].MAC, DHCP4: true}}
	got := read(t, write(t, s), "-R", "/network-config")
	if !strings.HasSuffix(got, "    dhcp4: true\n") {
		t.Errorf("network-config %q", got)
	}
}

func TestTheSameSeedGivesTheSameBytes(t *testing.T) {
	first, err := seed().Image()
	if err != nil {
		t.Fatal(err)
	}
	second, err := seed().Image()
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("images differ, %v", err)
	}
}

func TestTheFileIsTheOwnersAloneAndReplacedWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(path, []byte("old, and readable"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cloudinit.Write(path, seed()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size()%2048 != 0 {
		t.Errorf("%v %d bytes, %v", info.Mode(), info.Size(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestASeedThatMakesNoSenseIsRefusedWithoutItsValues(t *testing.T) {
	tests := map[string]func(*cloudinit.Seed){
		"no instance":          func(s *cloudinit.Seed) { s.InstanceID = "" },
		"newline in instance":  func(s *cloudinit.Seed) { s.InstanceID = "hunter2\nx: y" },
		"host name with quote": func(s *cloudinit.Seed) { s.LocalHostname = `hunter2"` },
		"too much user data":   func(s *cloudinit.Seed) { s.UserData = []byte(strings.Repeat("hunter2 ", 3<<20)) },
		"no MAC":               func(s *cloudinit.Seed) { s.Network[0].MAC = nil },
		"no way to an address": func(s *cloudinit.Seed) { s.Network[0].Addresses = nil },
		"invalid address":      func(s *cloudinit.Seed) { s.Network[0].Addresses = make([]netip.Prefix, 1) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			s := seed()
			spoil(&s)
			_, err := s.Image()
			if !errors.Is(err, cloudinit.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v", err)
			}
		})
	}
}
