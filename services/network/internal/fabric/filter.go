package fabric

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// The filter keeps guests from speaking for others: what comes out of a tap must be from its guest's MAC and address, in
// Ethernet, ARP, IPv4, IPv6 and its neighbor discovery, and nothing else comes out. It is a table of the bridge family in
// nftables, named for the bridge. nft(8) changes it in one transaction, so that guests are never without.
//
// DHCP's first message has no address yet; IPv6 has link-local ones of the guest's own making; by RARP (0x8035) QEMU says
// where a guest's MAC is after a migration.
const filterRules = `
	chain guest {
		iifname . ether saddr != @macs drop
		ether type 0x8035 accept
		ether type arp iifname . arp saddr ether != @macs drop
		ether type arp arp saddr ip 0.0.0.0 accept
		ether type arp iifname . arp saddr ip @addresses4 accept
		ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
		iifname . ip saddr @addresses4 accept
		icmpv6 type { nd-router-advert, nd-redirect } drop
		icmpv6 type nd-neighbor-advert @th,64,16 & 0xffc0 != 0xfe80 iifname . @th,64,128 != @targets6 drop
		ip6 saddr { ::, fe80::/10 } accept
		iifname . ip6 saddr @addresses6 accept
		drop
	}
	chain prerouting {
		type filter hook prerouting priority -300; policy accept;
		iifname @taps jump guest
	}
`

// A FilterError says that guests can't be kept from speaking for others.
type FilterError struct {
	Said string // by nft
	err  error
}

func (e *FilterError) Error() string {
	return fmt.Sprintf("filter of guests: nft: %v: %s", e.err, strings.TrimSpace(e.Said))
}

func (e *FilterError) Unwrap() error { return e.err }

// element is a member of one of the table's sets.
type element struct{ set, value string }

// elements are what the filter knows of an attachment. The tap itself is the last: a tap that is not named passes.
func (f *Fabric) elements(a Attachment) []element {
	tap := f.tapName(a.place())
	list := []element{{"macs", tap + " . " + a.MAC.String()}}
	if a.Address.Is4() {
		list = append(list, element{"addresses4", tap + " . " + a.Address.String()})
	} else {
		list = append(list,
			element{"addresses6", tap + " . " + a.Address.String()},
			element{"targets6", fmt.Sprintf("%s . 0x%x", tap, a.Address.As16())})
	}
	return append(list, element{"taps", tap})
}

// filterAll makes the table anew, for these attachments. It runs in the namespace, as does all that follows.
func (f *Fabric) filterAll(attachments []Attachment) error {
	table := f.filterTable()
	sets := map[string]*strings.Builder{}
	for _, a := range attachments {
		for _, e := range f.elements(a) {
			if sets[e.set] == nil {
				sets[e.set] = new(strings.Builder)
			}
			fmt.Fprintf(sets[e.set], "%s, ", e.value)
		}
	}
	var script strings.Builder
	// That there is none to delete is no failure if it was added before.
	fmt.Fprintf(&script, "table %[1]s\ndelete table %[1]s\ntable %[1]s {\n", table)
	for _, set := range [][2]string{
		{"taps", "type ifname"}, {"macs", "type ifname . ether_addr"}, {"addresses4", "type ifname . ipv4_addr"},
		{"addresses6", "type ifname . ipv6_addr"}, {"targets6", "typeof iifname . @th,64,128"},
	} {
		fmt.Fprintf(&script, "\tset %s { %s; ", set[0], set[1])
		if members := sets[set[0]]; members != nil {
			fmt.Fprintf(&script, "elements = { %s }; ", members)
		}
		script.WriteString("}\n")
	}
	script.WriteString(filterRules + "}\n")
	return runNFT(script.String())
}

// filter lets a guest speak for an attachment, and no longer for a former one, if there is one.
func (f *Fabric) filter(former, wanted Attachment) error {
	var script strings.Builder
	if former.ID != "" {
		f.write(&script, "delete", former)
	}
	f.write(&script, "add", wanted)
	return runNFT(script.String())
}

// unfilter forgets an attachment whose tap is gone.
func (f *Fabric) unfilter(a Attachment) error {
	var script strings.Builder
	f.write(&script, "delete", a)
	return runNFT(script.String())
}

func (f *Fabric) write(script *strings.Builder, verb string, a Attachment) {
	list := f.elements(a)
	if verb == "delete" {
		// That it isn't there is no failure if it was added before.
		f.write(script, "add", a)
		slices.Reverse(list)
	}
	for _, e := range list {
		fmt.Fprintf(script, "%s element %s %s { %s }\n", verb, f.filterTable(), e.set, e.value)
	}
}

func (f *Fabric) filterTable() string { return "bridge " + tableName(f.options.Bridge) }

// tableName is a bridge's name as nft takes one; no two bridges share it.
func tableName(bridge string) string {
	return "orlop_" + strings.NewReplacer("_", "__", ".", "_d", "-", "_m").Replace(bridge)
}

// removeFilter takes the table away.
func (f *Fabric) removeFilter() error {
	return runNFT(fmt.Sprintf("table %[1]s\ndelete table %[1]s\n", f.filterTable()))
}

// runNFT runs a script of nft(8) in the network namespace of the calling thread.
func runNFT(script string) error {
	command := exec.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader(script)
	said := new(bytes.Buffer)
	command.Stdout, command.Stderr = said, said
	if err := command.Run(); err != nil {
		return &FilterError{Said: said.String(), err: err}
	}
	return nil
}
