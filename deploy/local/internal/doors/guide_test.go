package doors_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orlop.dev/kit/serve"
)

// defaults are what the API adds to a spec that doesn't say it.
var defaults = map[string]string{
	"VirtualMachine": `
runPolicy: AlwaysOnUnlessStoppedManually
osType: Generic
bootloader: BIOS
enableParavirtualization: true
terminationGracePeriodSeconds: 60
liveMigrationPolicy: PreferSafe
disruptions: {restartApprovalMode: Manual}`,
}

// TestGuide holds the kinds' definitions alone against the user's guide: no
// service runs, and nobody is asked at admission.
func TestGuide(t *testing.T) {
	c := newCluster(t)
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	nowhere := dial(t, authority, "127.0.0.1:1")
	check(t, newOperator(t, c.server, authority, nowhere, c.logger).Install(t.Context()))
	meta := kubemeta.ObjectMeta{Name: "orlop-admission"}
	check(t, c.kube.Delete(t.Context(), &admission.ValidatingWebhookConfiguration{ObjectMeta: meta}))
	check(t, c.kube.Delete(t.Context(), &admission.MutatingWebhookConfiguration{ObjectMeta: meta}))
	// The API server hears of it a moment later.
	poll(t, "nobody is asked at admission", func() bool {
		_, err := c.kubectl.try(t, render(t, manifestOf(t, "VirtualDisk", "probe", "")), "create", "-f", "-", "--dry-run=server")
		return err == nil
	})

	t.Run("its manifests are accepted as they stand, and kept", c.testManifests)
	t.Run("its fragments are, too", c.testFragments)
	t.Run("our examples are, too", c.testExamples)
	t.Run("what is denied names the field", c.testDenied)
	t.Run("what can't be changed says so", c.testImmutable)
	t.Run("its columns", c.testColumns)
	t.Run("short names", c.testShortNames)
	t.Run("explain teaches", c.testExplain)
}

func (c *cluster) testManifests(t *testing.T) {
	for _, file := range guideFiles(t, "manifest") {
		t.Run(file.name, func(t *testing.T) {
			verb, named := "apply", parse(t, file.text)["metadata"].(document)["name"] != nil
			if !named {
				verb = "create"
			}
			kept := parse(t, c.kubectl.read(t, file.text, verb, "-f", "-", "--validate=strict", "-o", "json"))
			sameSpec(t, parse(t, file.text), kept)
			if !named {
				return
			}
			if c.kubectl.differs(t, file.text) {
				t.Error("to apply it again would change something")
			}
			c.kubectl.read(t, file.text, "delete", "-f", "-")
		})
	}
}

func (c *cluster) testFragments(t *testing.T) {
	for _, file := range guideFiles(t, "fragment") {
		t.Run(file.name, func(t *testing.T) {
			whole := manifestOf(t, "VirtualMachine", "fragment", render(t, parse(t, file.text)["spec"].(document)))
			kept := parse(t, c.kubectl.read(t, render(t, whole), "create", "-f", "-", "--validate=strict", "--dry-run=server", "-o", "json"))
			sameSpec(t, whole, kept)
		})
	}
}

func (c *cluster) testExamples(t *testing.T) {
	const folder = "../../../../examples"
	paths, err := filepath.Glob(folder + "/*.yaml")
	check(t, err)
	index, err := os.ReadFile(folder + "/README.md")
	check(t, err)
	for _, path := range paths {
		c.kubectl.run(t, "create", "--dry-run=server", "--validate=strict", "-f", path)
		if name := filepath.Base(path); !strings.Contains(string(index), "("+name+")") {
			t.Errorf("README.md doesn't list %s", name)
		}
	}
}

// sameSpec compares what was kept with what was applied and its defaults.
func sameSpec(t *testing.T, applied, kept document) {
	t.Helper()
	want := merged(parse(t, defaults[applied["kind"].(string)]), applied["spec"].(document))
	if !reflect.DeepEqual(want, kept["spec"]) {
		t.Errorf("wanted:\n%s\nkept:\n%s", render(t, want), render(t, kept["spec"].(document)))
	}
}

type guideFile struct{ name, text string }

func guideFiles(t *testing.T, folder string) []guideFile {
	t.Helper()
	paths, err := filepath.Glob("testdata/guide/" + folder + "/*.yaml")
	check(t, err)
	if len(paths) == 0 {
		t.Fatal("there is nothing to test")
	}
	var files []guideFile
	for _, path := range paths {
		text, err := os.ReadFile(path)
		check(t, err)
		files = append(files, guideFile{strings.TrimSuffix(filepath.Base(path), ".yaml"), string(text)})
	}
	return files
}

// testColumns holds the tables' heads against the guide's. Where the guide shows
// no wide table of a kind, reference and head agree on the columns of v0.18.
func (c *cluster) testColumns(t *testing.T) {
	for _, test := range []struct {
		kind, short, head, wide string
		row                     string // what the table shows of shown
	}{
		{"VirtualImage", "vi", "NAME|PHASE|CDROM|PROGRESS|AGE",
			"NAME|PHASE|CDROM|PROGRESS|STOREDSIZE|UNPACKEDSIZE|REGISTRY URL|TARGETPVC|AGE", "shown|Ready|false|100%"},
		{"ClusterVirtualImage", "cvi", "NAME|PHASE|CDROM|PROGRESS|AGE",
			"NAME|PHASE|CDROM|PROGRESS|STOREDSIZE|UNPACKEDSIZE|REGISTRY URL|AGE", "shown|Ready|false|100%"},
		{"VirtualDisk", "vd", "NAME|PHASE|CAPACITY|AGE",
			"NAME|PHASE|CAPACITY|INUSE|PROGRESS|STORAGECLASS|TARGETPVC|AGE", "shown|Ready|10Gi"},
		{"VirtualMachine", "vm", "NAME|PHASE|NODE|IPADDRESS|AGE",
			"NAME|PHASE|CORES|COREFRACTION|MEMORY|NEED RESTART|AGENT|MIGRATABLE|NODE|IPADDRESS|AGE",
			"shown|Running|virtlab-pt-1|10.66.10.13"},
		{"VirtualMachineOperation", "vmop", "NAME|PHASE|TYPE|VIRTUALMACHINE|AGE",
			"NAME|PHASE|TYPE|VIRTUALMACHINE|AGE", "shown|Completed|Restart|linux-vm"},
		{"VirtualMachineIPAddress", "vmip", "NAME|ADDRESS|STATUS|VM|AGE",
			"NAME|ADDRESS|STATUS|VM|AGE", "shown|10.66.10.14|Attached|linux-vm"},
		{"VirtualMachineIPAddressLease", "vmipl", "NAME|VIRTUALMACHINEIPADDRESS|STATUS|AGE",
			"NAME|VIRTUALMACHINEIPADDRESS|STATUS|AGE", `shown|{"name":"linux-vm-7prpx","namespace":"default"}|Bound`},
		{"VirtualMachineMACAddress", "vmmac", "NAME|ADDRESS|STATUS|VM|AGE",
			"NAME|ADDRESS|STATUS|VM|AGE", "shown|02:4f:52:4c:4f:50|Attached|linux-vm"},
		{"VirtualMachineMACAddressLease", "vmmacl", "NAME|VIRTUALMACHINEMACADDRESS|STATUS|AGE",
			"NAME|VIRTUALMACHINEMACADDRESS|STATUS|AGE", `shown|{"name":"linux-vm-7prpx","namespace":"default"}|Bound`},
		{"VirtualMachineClass", "vmclass", "NAME|PHASE|AGE", "NAME|PHASE|ISDEFAULT|AGE", "shown|Ready"},
	} {
		t.Run(test.kind, func(t *testing.T) {
			c.show(t, test.kind)
			head, row := table(c.kubectl.run(t, "get", test.short, "shown"))
			if head != test.head {
				t.Errorf("columns are %s, the guide has %s", head, test.head)
			}
			if !strings.HasPrefix(row, test.row+"|") {
				t.Errorf("the row is %s, it should begin with %s", row, test.row)
			}
			if head, _ := table(c.kubectl.run(t, "get", test.short, "shown", "-o", "wide")); head != test.wide {
				t.Errorf("wide columns are %s, they should be %s", head, test.wide)
			}
		})
	}
}

// statuses are of objects that are well.
var statuses = map[string]string{
	"VirtualImage":                  `{phase: Ready, cdrom: false, progress: 100%}`,
	"ClusterVirtualImage":           `{phase: Ready, cdrom: false, progress: 100%}`,
	"VirtualDisk":                   `{phase: Ready, capacity: 10Gi}`,
	"VirtualMachine":                `{phase: Running, nodeName: virtlab-pt-1, ipAddress: 10.66.10.13}`,
	"VirtualMachineOperation":       `{phase: Completed}`,
	"VirtualMachineIPAddress":       `{phase: Attached, address: 10.66.10.14, virtualMachineName: linux-vm}`,
	"VirtualMachineIPAddressLease":  `{phase: Bound}`,
	"VirtualMachineMACAddress":      `{phase: Attached, address: "02:4f:52:4c:4f:50", virtualMachineName: linux-vm}`,
	"VirtualMachineMACAddressLease": `{phase: Bound}`,
	"VirtualMachineClass":           `{phase: Ready}`,
}

func (c *cluster) show(t *testing.T, kind string) {
	t.Helper()
	cr := newObject(t, kind, "shown", "")
	check(t, c.kube.Create(t.Context(), cr))
	cr.Object["status"] = parse(t, statuses[kind])
	check(t, c.kube.Status().Update(t.Context(), cr))
}

var gap = regexp.MustCompile(`\s{2,}`)

// table is the head and the first row of what kubectl prints, with | between
// columns.
func table(output string) (head, row string) {
	lines := append(strings.Split(output, "\n"), "", "")
	return gap.ReplaceAllString(strings.TrimSpace(lines[0]), "|"), gap.ReplaceAllString(strings.TrimSpace(lines[1]), "|")
}

func (c *cluster) testShortNames(t *testing.T) {
	output := c.kubectl.run(t, "api-resources", "--api-group=virtualization.deckhouse.io", "--no-headers")
	for _, want := range []string{
		"virtualimages|vi,vis", "clustervirtualimages|cvi,cvis", "virtualdisks|vd,vds", "virtualmachines|vm,vms",
		"virtualmachineclasses|vmc,vmcs,vmclass,vmclasses", "virtualmachineoperations|vmop,vmops",
		"virtualmachineipaddresses|vmip,vmips", "virtualmachineipaddressleases|vmipl,vmipls,vmiplease,vmipleases",
		"virtualmachinemacaddresses|vmmac", "virtualmachinemacaddressleases|vmmacl,vmmaclease",
	} {
		if !strings.Contains("\n"+gap.ReplaceAllString(output, "|"), want+"|") {
			t.Errorf("there is no %s in\n%s", want, output)
		}
	}
	if listed := c.kubectl.run(t, "get", "vi,vds,virtualmachine", "-o", "name"); strings.Count(listed, "/shown") != 3 {
		t.Errorf("short, plural and singular names list\n%s", listed)
	}
	if all := c.kubectl.run(t, "get", "all", "-o", "name"); !strings.Contains(all, "virtualmachine.virtualization.deckhouse.io/shown") {
		t.Errorf("`get all` lists\n%s", all)
	}
}

func (c *cluster) testExplain(t *testing.T) {
	for path, want := range map[string]string{
		"vm.spec.cpu":           "coreFraction",
		"vm.spec.cpu.cores":     "<integer>",
		"vm.spec.runPolicy":     "AlwaysOnUnlessStoppedManually",
		"vi.spec.dataSource":    "objectRef",
		"vd.status.phase":       "WaitForFirstConsumer",
		"vmop.spec.type":        "Restart",
		"vmip.spec.staticIP":    "<string>",
		"vmclass.spec.cpu.type": "HostPassthrough",
	} {
		text := c.kubectl.run(t, "explain", path)
		_, description, found := strings.Cut(text, "DESCRIPTION:")
		if !found || strings.HasPrefix(strings.TrimSpace(description), "<empty>") || !strings.Contains(text, want) {
			t.Errorf("kubectl explain %s teaches nothing of %s:\n%s", path, want, text)
		}
	}
}
