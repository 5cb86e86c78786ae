package address

import (
	"errors"
	"strconv"
	"testing"
)

func TestDerivedMACsAreStableLocalAndUnlikeEachOther(t *testing.T) {
	if got := DeriveMAC("linux-vm", 0).String(); got != "82:6d:f0:9f:39:13" {
		t.Errorf("DeriveMAC(linux-vm) = %s: guests would change theirs with this release", got)
	}
	seen := map[MAC]bool{}
	for seed := range 100 {
		for attempt := range 100 {
			mac := DeriveMAC(strconv.Itoa(seed), attempt)
			if mac[0]&3 != 2 || !mac.Unicast() || seen[mac] {
				t.Fatalf("MAC %s: local unicast %t, seen before %t", mac, mac[0]&3 == 2, seen[mac])
			}
			seen[mac] = true
		}
	}
}

func TestMACsAreReadInEachSpellingAndNamedInOne(t *testing.T) {
	want := MAC{0x82, 0x6d, 0xf0, 0x9f, 0x39, 0x13}
	for _, text := range []string{"82:6d:f0:9f:39:13", "82:6D:F0:9F:39:13", "82-6d-f0-9f-39-13"} {
		if mac, err := ParseMAC(text); err != nil || mac != want {
			t.Errorf("%s: %s, %v", text, mac, err)
		}
	}
	for _, text := range []string{"", "82:6d:f0:9f:39", "82:6d:f0:9f:39:13:00:01", "linux-vm"} {
		if mac, err := ParseMAC(text); !errors.Is(err, ErrMAC) {
			t.Errorf("%q is read as %s", text, mac)
		}
	}
	name := MACLeaseName(want)
	if mac, err := ParseMACLeaseName(name); err != nil || mac != want || name != "mac-82-6d-f0-9f-39-13" {
		t.Errorf("%s: %s, %v", name, mac, err)
	}
	for _, other := range []string{"mac-82-6D-f0-9f-39-13", "mac-82:6d:f0:9f:39:13", "82-6d-f0-9f-39-13", "mac-", "ip-10-66-10-14"} {
		if _, err := ParseMACLeaseName(other); !errors.Is(err, ErrLeaseName) {
			t.Errorf("%q is taken for a lease's name", other)
		}
	}
	for _, mac := range []MAC{{}, {1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if mac.Unicast() {
			t.Errorf("%s can't be a card's", mac)
		}
	}
}
