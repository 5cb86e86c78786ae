package doors_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refusal is a change that spoils a usable spec, and the words that the answer
// to it must have, the field's path among them.
type refusal struct {
	kind, name string // name is "spoilt" where it is empty
	patch      string
	words      []string
}

const long = "a-name-that-goes-on-and-on-until-nobody-can-remember-how-it-began"

// refusals are the rules of the schema: required fields, enumerations, limits,
// and the rules across fields (CEL). What only a service can know is not here.
var refusals = map[string][]refusal{
	"data sources": {
		{kind: "VirtualImage", patch: `dataSource: {containerImage: {image: a/b}}`, words: []string{"spec.dataSource", "HTTP", "http"}},
		{kind: "VirtualImage", patch: `dataSource: {http: null}`, words: []string{"spec.dataSource", "requires http"}},
		{kind: "VirtualImage", patch: `dataSource: {type: ContainerImage}`, words: []string{"spec.dataSource", "containerImage"}},
		{kind: "VirtualImage", patch: `dataSource: {type: ObjectRef}`, words: []string{"spec.dataSource", "objectRef"}},
		{kind: "VirtualImage", patch: `dataSource: {type: Upload}`, words: []string{"spec.dataSource", "Upload"}},
		{kind: "VirtualImage", patch: `dataSource: {type: FTP}`, words: []string{"spec.dataSource.type", `"FTP"`, "Upload"}},
		{kind: "VirtualImage", patch: `dataSource: null`, words: []string{"spec.dataSource", "Required"}},
		{kind: "VirtualImage", patch: `dataSource: {http: {url: "ftp://x/y"}}`, words: []string{"spec.dataSource.http.url", "ftp://x/y"}},
		{kind: "VirtualImage", patch: `dataSource: {http: {checksum: {md5: abc}}}`, words: []string{"spec.dataSource.http.checksum.md5"}},
		{kind: "VirtualImage", patch: `dataSource: {http: {checksum: {sha256: abc}}}`, words: []string{"spec.dataSource.http.checksum.sha256"}},
		{
			kind: "VirtualImage", patch: `dataSource: {type: ObjectRef, http: null, objectRef: {kind: Pod, name: a}}`,
			words: []string{"spec.dataSource.objectRef.kind", `"Pod"`},
		},
		{
			kind: "VirtualImage", patch: `dataSource: {type: ObjectRef, http: null, objectRef: {kind: VirtualDisk, name: ""}}`,
			words: []string{"spec.dataSource.objectRef.name"},
		},
		{kind: "VirtualImage", patch: `storage: Elsewhere`, words: []string{"spec.storage", `"Elsewhere"`, "ContainerRegistry"}},
		{kind: "ClusterVirtualImage", patch: `dataSource: {objectRef: {kind: ClusterVirtualImage, name: a}}`, words: []string{"spec.dataSource", "HTTP"}},
		{kind: "ClusterVirtualImage", patch: `dataSource: {type: null}`, words: []string{"spec.dataSource.type", "Required"}},
		{
			kind: "ClusterVirtualImage", patch: `dataSource: {type: ObjectRef, http: null, objectRef: {kind: VirtualImage, name: a}}`,
			words: []string{"spec.dataSource.objectRef", "namespace is required"},
		},
		{
			kind:  "ClusterVirtualImage",
			patch: `dataSource: {type: ObjectRef, http: null, objectRef: {kind: VirtualDisk, name: a, namespace: ` + long + `}}`,
			words: []string{"spec.dataSource.objectRef", "namespace", "63"},
		},
		{kind: "VirtualDisk", patch: `dataSource: {type: HTTP, containerImage: {image: a}}`, words: []string{"spec.dataSource", "http"}},
		{
			kind: "VirtualDisk", patch: `dataSource: {type: ObjectRef, objectRef: {kind: VirtualDisk, name: a}}`,
			words: []string{"spec.dataSource.objectRef.kind", `"VirtualDisk"`},
		},
	},
	"disks": {
		{kind: "VirtualDisk", patch: `persistentVolumeClaim: null`, words: []string{"persistentVolumeClaim.size is required"}},
		{kind: "VirtualDisk", patch: `persistentVolumeClaim: {size: ten}`, words: []string{"spec.persistentVolumeClaim.size", `"ten"`}},
	},
	"classes": {
		{kind: "VirtualMachineClass", patch: `cpu: null`, words: []string{"spec.cpu", "Required"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: Fast}`, words: []string{"spec.cpu.type", `"Fast"`}},
		{kind: "VirtualMachineClass", patch: `cpu: {model: Nehalem}`, words: []string{"spec.cpu", "HostPassthrough", "model"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: Discovery, model: Nehalem}`, words: []string{"spec.cpu", "Discovery", "model"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: Model}`, words: []string{"spec.cpu", "Model", "model"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: Features}`, words: []string{"spec.cpu", "Features", "features"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: Features, features: []}`, words: []string{"spec.cpu.features"}},
		{
			kind: "VirtualMachineClass", patch: `sizingPolicies: [{cores: {min: 4, max: 4}}]`,
			words: []string{"spec.sizingPolicies[0].cores", "cores.max must be greater than cores.min"},
		},
		{
			kind: "VirtualMachineClass", patch: `sizingPolicies: [{cores: {min: 1, max: 4, step: 4}}]`,
			words: []string{"spec.sizingPolicies[0].cores", "cores.max must be greater than cores.step"},
		},
		{kind: "VirtualMachineClass", patch: `sizingPolicies: [{cores: {min: 0, max: 4}}]`, words: []string{"spec.sizingPolicies[0].cores.min"}},
		{kind: "VirtualMachineClass", patch: `sizingPolicies: [{cores: {min: 1, max: 1025}}]`, words: []string{"spec.sizingPolicies[0].cores.max"}},
		{kind: "VirtualMachineClass", patch: `sizingPolicies: [{}]`, words: []string{"spec.sizingPolicies[0].cores", "Required"}},
		{
			kind: "VirtualMachineClass", patch: `sizingPolicies: [{cores: {min: 1, max: 4}, coreFractions: [101]}]`,
			words: []string{"spec.sizingPolicies[0].coreFractions[0]"},
		},
	},
	"machines": {
		{kind: "VirtualMachine", patch: `cpu: null`, words: []string{"spec.cpu", "Required"}},
		{kind: "VirtualMachine", patch: `cpu: {cores: 0}`, words: []string{"spec.cpu.cores"}},
		{kind: "VirtualMachine", patch: `cpu: {coreFraction: 0%}`, words: []string{"spec.cpu.coreFraction", "0%"}},
		{kind: "VirtualMachine", patch: `cpu: {coreFraction: 101%}`, words: []string{"spec.cpu.coreFraction", "101%"}},
		{kind: "VirtualMachine", patch: `memory: {size: null}`, words: []string{"spec.memory.size", "Required"}},
		{kind: "VirtualMachine", patch: `memory: {size: much}`, words: []string{"spec.memory.size", "much"}},
		{kind: "VirtualMachine", patch: `runPolicy: Sometimes`, words: []string{"spec.runPolicy", `"Sometimes"`, "AlwaysOff"}},
		{kind: "VirtualMachine", patch: `bootloader: GRUB`, words: []string{"spec.bootloader", `"GRUB"`}},
		{kind: "VirtualMachine", patch: `osType: DOS`, words: []string{"spec.osType", `"DOS"`}},
		{kind: "VirtualMachine", patch: `liveMigrationPolicy: Never`, words: []string{"spec.liveMigrationPolicy", `"Never"`}},
		{kind: "VirtualMachine", patch: `disruptions: {restartApprovalMode: Ask}`, words: []string{"spec.disruptions.restartApprovalMode", `"Ask"`}},
		{kind: "VirtualMachine", patch: `blockDeviceRefs: null`, words: []string{"spec.blockDeviceRefs", "Required"}},
		{kind: "VirtualMachine", patch: `blockDeviceRefs: []`, words: []string{"spec.blockDeviceRefs"}},
		{kind: "VirtualMachine", patch: `blockDeviceRefs: [` + strings.Repeat("{kind: VirtualDisk, name: a}, ", 17) + `]`, words: []string{"spec.blockDeviceRefs", "16"}},
		{kind: "VirtualMachine", patch: `blockDeviceRefs: [{kind: Floppy, name: a}]`, words: []string{"spec.blockDeviceRefs[0].kind", `"Floppy"`}},
		{kind: "VirtualMachine", patch: `blockDeviceRefs: [{kind: VirtualDisk, name: ""}]`, words: []string{"spec.blockDeviceRefs[0].name"}},
		{kind: "VirtualMachine", patch: `provisioning: {type: Ansible}`, words: []string{"spec.provisioning.type", `"Ansible"`}},
		{kind: "VirtualMachine", patch: `provisioning: {type: UserData}`, words: []string{"spec.provisioning", "userData"}},
		{
			kind: "VirtualMachine", patch: `provisioning: {type: UserDataRef, userData: x, userDataRef: {kind: Secret, name: a}}`,
			words: []string{"spec.provisioning", "userDataRef alone"},
		},
		{kind: "VirtualMachine", patch: `provisioning: {type: SysprepRef}`, words: []string{"spec.provisioning", "sysprepRef"}},
		{
			kind: "VirtualMachine", patch: `provisioning: {type: UserDataRef, userDataRef: {kind: ConfigMap, name: a}}`,
			words: []string{"spec.provisioning.userDataRef.kind", `"ConfigMap"`},
		},
		{
			kind: "VirtualMachine", patch: `provisioning: {type: UserData, userData: "` + strings.Repeat("é", 1025) + `"}`,
			words: []string{"spec.provisioning.userData", "2048"},
		},
		{
			kind: "VirtualMachine", patch: `topologySpreadConstraints: [{topologyKey: a, whenUnsatisfiable: DoNotSchedule}]`,
			words: []string{"spec.topologySpreadConstraints[0].maxSkew", "Required"},
		},
	},
	"operations": {
		{kind: "VirtualMachineOperation", patch: `type: Explode`, words: []string{"spec.type", `"Explode"`, "Restart"}},
		{kind: "VirtualMachineOperation", patch: `type: null`, words: []string{"spec.type", "Required"}},
		{kind: "VirtualMachineOperation", patch: `virtualMachineName: ""`, words: []string{"spec.virtualMachineName"}},
		{kind: "VirtualMachineOperation", patch: `{type: Start, force: true}`, words: []string{"spec", "Start can't be forced"}},
		{kind: "VirtualMachineOperation", patch: `{type: Evict, migrate: {nodeSelector: {disktype: ssd}}}`, words: []string{"spec", "migrate can be given with type Migrate only"}},
	},
	"addresses": {
		{kind: "VirtualMachineIPAddress", patch: `type: null`, words: []string{"spec.type", "Required"}},
		{kind: "VirtualMachineIPAddress", patch: `type: Dynamic`, words: []string{"spec.type", `"Dynamic"`}},
		{kind: "VirtualMachineIPAddress", patch: `staticIP: null`, words: []string{"spec", "staticIP is required"}},
		{kind: "VirtualMachineIPAddress", patch: `type: Auto`, words: []string{"spec", "staticIP can't be given"}},
		{kind: "VirtualMachineMACAddress", patch: `address: 82-6d-f0-9f-39`, words: []string{"spec.address"}},
	},
	"names": {
		{kind: "VirtualMachine", name: long, words: []string{"metadata.name", "63"}},
		{kind: "VirtualDisk", name: long + "." + long, words: []string{"metadata.name", "128"}},
		{kind: "VirtualImage", name: long + "." + long, words: []string{"metadata.name", "128"}},
		{kind: "ClusterVirtualImage", name: long + "." + long, words: []string{"metadata.name", "128"}},
	},
	// A field that nothing honours yet is refused by name, not ignored.
	"fields to come": {
		{kind: "VirtualMachine", patch: `blockDeviceRefs: [{kind: VirtualDisk, name: a, bootOrder: 1}]`, words: []string{"spec.blockDeviceRefs[0]", "bootOrder is not supported yet"}},
		{kind: "VirtualMachine", patch: `usbDevices: [{name: a}]`, words: []string{"usbDevices is not supported yet"}},
		{kind: "VirtualMachine", patch: `networks: [{type: Main}, {type: Network, name: blue}]`, words: []string{"one interface yet"}},
		{kind: "VirtualMachine", patch: `networks: [{type: Main, name: blue}]`, words: []string{"name is not supported yet"}},
		{kind: "VirtualMachine", patch: `gpus: [{gpuClassName: a}]`, words: []string{"gpus is not supported yet"}},
		{kind: "VirtualImage", patch: `dataSource: {http: {checksum: {streebog256: ` + strings.Repeat("a", 64) + `}}}`, words: []string{"spec.dataSource.http.checksum", "streebog256"}},
		{kind: "VirtualMachine", patch: `wings: 2`, words: []string{"spec.wings"}},
	},
}

func (c *cluster) testDenied(t *testing.T) {
	for group, cases := range refusals {
		t.Run(group, func(t *testing.T) {
			for _, test := range cases {
				if test.name == "" {
					test.name = "spoilt"
				}
				cr := newObject(t, test.kind, test.name, test.patch)
				err := c.kube.Create(t.Context(), cr, client.DryRunAll, client.FieldValidation("Strict"))
				denied(t, test.kind+" "+test.name+" "+shortened(test.patch), err, test.words)
			}
		})
	}
}

// testImmutable changes what was accepted.
func (c *cluster) testImmutable(t *testing.T) {
	for _, test := range []refusal{
		{kind: "VirtualMachineOperation", patch: `virtualMachineName: other`, words: []string{"spec", "immutable"}},
		{kind: "VirtualMachineOperation", patch: `force: true`, words: []string{"spec", "immutable"}},
		{kind: "VirtualMachineClass", patch: `cpu: {type: HostPassthrough}`, words: []string{"spec.cpu", "immutable"}},
	} {
		cr := newObject(t, test.kind, "firm", "")
		check(t, c.kube.Create(t.Context(), cr))
		cr.Object["spec"] = merged(cr.Object["spec"].(document), parse(t, test.patch))
		denied(t, test.kind+" "+test.patch, c.kube.Update(t.Context(), cr), test.words)
		check(t, c.kube.Delete(t.Context(), cr))
	}
}

func newObject(t *testing.T, kind, name, patch string) *unstructured.Unstructured {
	t.Helper()
	cr := &unstructured.Unstructured{Object: manifestOf(t, kind, name, patch)}
	if namespaced(kind) {
		cr.SetNamespace(namespace)
	}
	return cr
}

func namespaced(kind string) bool {
	return !strings.HasPrefix(kind, "Cluster") && !strings.HasSuffix(kind, "Class") && !strings.HasSuffix(kind, "Lease")
}

func denied(t *testing.T, what string, err error, words []string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: is accepted", what)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %q is not in: %v", what, word, err)
		}
	}
}

func shortened(text string) string {
	if len(text) > 100 {
		return text[:100] + "…"
	}
	return text
}
