package doors_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"orlop.dev/kit/serve"
	"orlop.dev/services/disk"
	"orlop.dev/services/network"
	"orlop.dev/services/vm"
)

// newParts are the services that need nothing but a folder. Images need DVCR:
// they stay away, and the others do without.
func newParts(t *testing.T, c *cluster, conn grpc.ClientConnInterface) []serve.Part {
	t.Helper()
	store := newEtcdClient(t, c.etcd)
	disks, err := disk.New(disk.Options{
		Etcd: store, Prefix: disk.DefaultPrefix, Images: conn, Dir: t.TempDir(), Logger: c.logger,
	})
	check(t, err)
	networks, err := network.New(network.Options{
		Etcd: store, Prefix: network.DefaultPrefix, VirtualMachines: conn, CIDRs: []string{"10.66.10.0/24"},
		Mode: network.ModeUser, StateDir: t.TempDir(), Logger: c.logger,
	})
	check(t, err)
	machines, err := vm.New(t.Context(), vm.Options{
		Etcd: store, Prefix: vm.DefaultPrefix, Disks: conn, Images: conn, Networks: conn, Dir: t.TempDir(),
		Nodes: []string{"node-1"}, MilliCPU: 4000, MemoryBytes: 8 << 30, Logger: c.logger,
	})
	check(t, err)
	return []serve.Part{disks.Part(), networks.Part(), machines.Part()}
}

// testAddresses shows a lease that nobody but the service made, and what the
// service refuses.
func (h *house) testAddresses(t *testing.T) {
	const wanted = "type: Static\nstaticIP: 10.66.10.77"
	first := newObject(t, "VirtualMachineIPAddress", "first", wanted)
	check(t, h.kube.Create(t.Context(), first))
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Bound", "vmip/first", "--timeout="+deadline.String())
	h.kubectl.run(t, "wait", "--for=create", "vmipl/ip-10-66-10-77", "--timeout="+deadline.String())
	poll(t, "the lease is Bound, and kstatus sees it done", func() bool {
		lease := newObject(t, "VirtualMachineIPAddressLease", "ip-10-66-10-77", "")
		check(t, h.kube.Get(t.Context(), client.ObjectKeyFromObject(lease), lease))
		return text(lease, "status", "phase") == "Bound" && state(t, lease) == "Current" &&
			text(lease, "spec", "virtualMachineIPAddressRef", "name") == "first"
	})
	h.refuses(t, []refusal{
		{kind: "VirtualMachineIPAddress", name: "second", patch: wanted, words: []string{"spec.staticIP", "default/first"}},
		{kind: "VirtualMachineIPAddress", name: "far", patch: `staticIP: 10.66.20.77`, words: []string{"spec.staticIP", "10.66.20.77"}},
		{kind: "VirtualMachineIPAddress", name: "edge", patch: `staticIP: 10.66.10.0`, words: []string{"spec.staticIP", "10.66.10.0"}},
		{kind: "VirtualMachineIPAddress", name: "none", patch: `staticIP: 10.66.10.300`, words: []string{"spec.staticIP", "10.66.10.300"}},
		{kind: "VirtualMachineIPAddress", name: "first", patch: `staticIP: 10.66.10.78`, words: []string{"spec.staticIP", "can't be changed"}},
		{kind: "VirtualMachineIPAddressLease", name: "mine", words: []string{"metadata.name", "ip-10-66-10-14"}},
	})
	h.kubectl.run(t, "delete", "vmip", "first", "--timeout="+deadline.String())
}

// testMACs is the same of MAC addresses.
func (h *house) testMACs(t *testing.T) {
	const wanted = "address: 02-4F-52-4C-4F-50"
	check(t, h.kube.Create(t.Context(), newObject(t, "VirtualMachineMACAddress", "first", wanted)))
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.address}=02:4f:52:4c:4f:50", "vmmac/first", "--timeout="+deadline.String())
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Bound", "vmmacl/mac-02-4f-52-4c-4f-50", "--timeout="+deadline.String())
	h.refuses(t, []refusal{
		{kind: "VirtualMachineMACAddress", name: "second", patch: wanted, words: []string{"spec.address", "default/first"}},
		{kind: "VirtualMachineMACAddress", name: "group", patch: `address: 03:4f:52:4c:4f:50`, words: []string{"spec.address", "not one card's"}},
		{kind: "VirtualMachineMACAddress", name: "first", patch: `address: 02:4f:52:4c:4f:51`, words: []string{"spec.address", "can't be changed"}},
		{kind: "VirtualMachineMACAddressLease", name: "mine", words: []string{"metadata.name", "mac-82-6d-f0-9f-39-13"}},
	})
	h.kubectl.run(t, "delete", "vmmac", "first", "--timeout="+deadline.String())
}

func (h *house) testMachines(t *testing.T) {
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Ready", "vmclass/generic", "vmclass/host", "--timeout="+deadline.String())
	small := newObject(t, "VirtualMachineClass", "small", `sizingPolicies: [{cores: {min: 1, max: 2}, coreFractions: [20, 50], defaultCoreFraction: 20}]`)
	check(t, h.kube.Create(t.Context(), small))
	h.kubectl.run(t, "wait", "--for=jsonpath={.status.phase}=Ready", "vmclass/small", "--timeout="+deadline.String())
	if _, err := h.kubectl.try(t, render(t, manifestOf(t, "VirtualMachine", "fits", `virtualMachineClassName: small`)),
		"create", "--dry-run=server", "-f", "-"); err != nil {
		t.Error(err)
	}
	h.refuses(t, []refusal{
		{kind: "VirtualMachine", patch: `cpu: {cores: 17}`, words: []string{"spec.cpu.cores", "17"}},
		{kind: "VirtualMachine", patch: `cpu: {cores: 34}`, words: []string{"spec.cpu.cores", "34"}},
		{kind: "VirtualMachine", patch: `cpu: {cores: 256}`, words: []string{"spec.cpu.cores", "248"}},
		{
			kind: "VirtualMachine", patch: `blockDeviceRefs: [{kind: VirtualDisk, name: a}, {kind: VirtualDisk, name: a}]`,
			words: []string{"spec.blockDeviceRefs[1]", "spec.blockDeviceRefs[0]"},
		},
		{kind: "VirtualMachine", patch: `{virtualMachineClassName: small, cpu: {cores: 4}}`, words: []string{"spec", "class small", "cores"}},
		{kind: "VirtualMachine", patch: `memory: {size: 1Mi}`, words: []string{"spec.memory.size", "32Mi"}},
		{kind: "VirtualMachine", patch: `cpu: {cores: 249}`, words: []string{"spec.cpu.cores", "248"}},
		{kind: "VirtualMachine", patch: `{virtualMachineClassName: small, cpu: {cores: 1, coreFraction: 100%}}`, words: []string{"spec", "coreFraction", "20%, 50%"}},
		{
			kind: "VirtualMachineClass", name: "odd", patch: `sizingPolicies: [{cores: {min: 1, max: 4}, coreFractions: [5], defaultCoreFraction: 20}]`,
			words: []string{"spec.sizingPolicies[0].defaultCoreFraction", "not in coreFractions: 5%"},
		},
		{kind: "VirtualMachineClass", name: "overlap", patch: `sizingPolicies: [{cores: {min: 1, max: 4}}, {cores: {min: 4, max: 8}}]`, words: []string{"spec.sizingPolicies[1]"}},
	})
	h.testDefaultClass(t)
	h.testDefaultFraction(t)
	h.kubectl.run(t, "delete", "vmclass", "small", "--timeout="+deadline.String())
}

// testDefaultClass leaves the class of a VM out.
func (h *house) testDefaultClass(t *testing.T) {
	const annotation = "virtualmachineclass.virtualization.deckhouse.io/is-default-class"
	for _, patch := range []string{`virtualMachineClassName: null`, `virtualMachineClassName: ""`} {
		said, err := h.kubectl.try(t, render(t, manifestOf(t, "VirtualMachine", "plain", patch)),
			"create", "--dry-run=server", "-o", "jsonpath={.spec.virtualMachineClassName}", "-f", "-")
		if err != nil || said != "generic" {
			t.Errorf("%s: the class is %q, %v", patch, said, err)
		}
	}
	_, err := h.kubectl.try(t, "", "annotate", "vmclass", "small", annotation+"=true")
	denied(t, "a second default class", err, []string{"metadata.annotations", "class generic is the default one already"})
	h.kubectl.run(t, "annotate", "vmclass", "generic", annotation+"-")
	poll(t, "no class is the default one", func() bool {
		_, err := h.kubectl.try(t, render(t, manifestOf(t, "VirtualMachine", "plain", `virtualMachineClassName: null`)), "create", "--dry-run=server", "-f", "-")
		return err != nil && strings.Contains(err.Error(), "spec.virtualMachineClassName") && strings.Contains(err.Error(), annotation)
	})
	h.kubectl.run(t, "annotate", "vmclass", "generic", annotation+"=true")
}

// testDefaultFraction leaves the coreFraction of VMs out.
func (h *house) testDefaultFraction(t *testing.T) {
	for patch, want := range map[string]string{
		`{virtualMachineClassName: small, cpu: {cores: 1, coreFraction: null}}`:   "20%",
		`{virtualMachineClassName: small, cpu: {cores: 1, coreFraction: ""}}`:     "20%",
		`{virtualMachineClassName: small, cpu: {cores: 1, coreFraction: 50%}}`:    "50%",
		`{virtualMachineClassName: generic, cpu: {cores: 1, coreFraction: null}}`: "100%",
	} {
		said, err := h.kubectl.try(t, render(t, manifestOf(t, "VirtualMachine", "plain", patch)),
			"create", "--dry-run=server", "-o", "jsonpath={.spec.cpu.coreFraction}", "-f", "-")
		if err != nil || said != want {
			t.Errorf("%s: coreFraction is %q, %v", patch, said, err)
		}
	}
}

// refuses applies what must be denied.
func (h *house) refuses(t *testing.T, cases []refusal) {
	t.Helper()
	for _, test := range cases {
		if test.name == "" {
			test.name = "spoilt"
		}
		manifest := render(t, manifestOf(t, test.kind, test.name, test.patch))
		_, err := h.kubectl.try(t, manifest, "apply", "--server-side", "--force-conflicts", "-f", "-")
		denied(t, test.kind+" "+test.name+" "+test.patch, err, test.words)
	}
}
