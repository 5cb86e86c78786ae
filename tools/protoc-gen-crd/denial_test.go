package main

import (
	"strings"
	"testing"
)

// What the reference says is denied by schema, kind by kind. Each manifest is
// legal but for one thing; the refusal must name the field.
func TestKindsDenyWhatTheReferenceDenies(t *testing.T) {
	judges := apiJudges(t)
	const (
		vm    = "{virtualMachineClassName: c, cpu: {cores: 1}, memory: {size: 1Gi}, blockDeviceRefs: [{kind: VirtualDisk, name: d}]"
		class = "{sizingPolicies: [{cores: {min: 1, max: 4}}], cpu: "
	)
	for name, test := range map[string]struct {
		kind, spec, old string
		field           string // empty: legal
	}{
		"image from HTTP":                {kind: "VirtualImage", spec: "{dataSource: {type: HTTP, http: {url: 'http://a/b'}}}"},
		"image from HTTP without http":   {kind: "VirtualImage", spec: "{dataSource: {type: HTTP}}", field: "spec.dataSource"},
		"image from two sources":         {kind: "VirtualImage", spec: "{dataSource: {type: HTTP, http: {url: 'http://a/b'}, objectRef: {kind: VirtualDisk, name: d}}}", field: "spec.dataSource"},
		"image from no address":          {kind: "VirtualImage", spec: "{dataSource: {type: HTTP, http: {url: 'ftp://a/b'}}}", field: "spec.dataSource.http.url"},
		"image without source":           {kind: "VirtualImage", spec: "{storage: ContainerRegistry}", field: "spec.dataSource"},
		"image with a wrong checksum":    {kind: "VirtualImage", spec: "{dataSource: {type: HTTP, http: {url: 'http://a/b', checksum: {md5: '12'}}}}", field: "spec.dataSource.http.checksum.md5"},
		"cluster image from a namespace": {kind: "ClusterVirtualImage", spec: "{dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: i}}}", field: "spec.dataSource.objectRef"},
		"blank disk":                     {kind: "VirtualDisk", spec: "{persistentVolumeClaim: {size: 1Gi}}"},
		"blank disk, size as a number":   {kind: "VirtualDisk", spec: "{persistentVolumeClaim: {size: 1024}}"},
		"disk of nothing":                {kind: "VirtualDisk", spec: "{}", field: "spec"},
		"disk of no size":                {kind: "VirtualDisk", spec: "{persistentVolumeClaim: {size: big}}", field: "spec.persistentVolumeClaim.size"},
		"disk from a disk":               {kind: "VirtualDisk", spec: "{dataSource: {type: ObjectRef, objectRef: {kind: VirtualDisk, name: d}}}", field: "spec.dataSource.objectRef.kind"},
		"VM":                             {kind: "VirtualMachine", spec: vm + "}"},
		"VM without cores":               {kind: "VirtualMachine", spec: strings.Replace(vm, "cores: 1", "cores: 0", 1) + "}", field: "spec.cpu.cores"},
		"VM with half a core fraction":   {kind: "VirtualMachine", spec: strings.Replace(vm, "cores: 1", "cores: 1, coreFraction: half", 1) + "}", field: "spec.cpu.coreFraction"},
		"VM without disks":               {kind: "VirtualMachine", spec: strings.Replace(vm, "{kind: VirtualDisk, name: d}", "", 1) + "}", field: "spec.blockDeviceRefs"},
		"VM with 17 disks":               {kind: "VirtualMachine", spec: strings.Replace(vm, "name: d}", "name: d}"+strings.Repeat(", {kind: VirtualDisk, name: d}", 16), 1) + "}", field: "spec.blockDeviceRefs"},
		"VM with an unknown policy":      {kind: "VirtualMachine", spec: vm + ", runPolicy: Sometimes}", field: "spec.runPolicy"},
		"VM with user data":              {kind: "VirtualMachine", spec: vm + ", provisioning: {type: UserData, userData: x}}"},
		"VM with unfitting provisioning": {kind: "VirtualMachine", spec: vm + ", provisioning: {type: UserDataRef, userData: x}}", field: "spec.provisioning"},
		"VM with long user data":         {kind: "VirtualMachine", spec: vm + ", provisioning: {type: UserData, userData: " + strings.Repeat("x", 2049) + "}}", field: "spec.provisioning.userData"},
		"class":                          {kind: "VirtualMachineClass", spec: class + "{type: Host}}"},
		"class of a host with a model":   {kind: "VirtualMachineClass", spec: class + "{type: Host, model: m}}", field: "spec.cpu"},
		"class of no model":              {kind: "VirtualMachineClass", spec: class + "{type: Model}}", field: "spec.cpu"},
		"class with cores upside down":   {kind: "VirtualMachineClass", spec: strings.Replace(class, "min: 1, max: 4", "min: 4, max: 1", 1) + "{type: Host}}", field: "spec.sizingPolicies[0].cores"},
		"class whose cpu changes":        {kind: "VirtualMachineClass", spec: class + "{type: Host}}", old: class + "{type: HostPassthrough}}", field: "spec.cpu"},
		"class whose policies change":    {kind: "VirtualMachineClass", spec: class + "{type: Host}}", old: "{cpu: {type: Host}}"},
		"operation":                      {kind: "VirtualMachineOperation", spec: "{type: Stop, virtualMachineName: v, force: true}"},
		"forced start":                   {kind: "VirtualMachineOperation", spec: "{type: Start, virtualMachineName: v, force: true}", field: "spec"},
		"operation that changes":         {kind: "VirtualMachineOperation", spec: "{type: Start, virtualMachineName: v}", old: "{type: Stop, virtualMachineName: v}", field: "spec"},
		"address":                        {kind: "VirtualMachineIPAddress", spec: "{type: Auto}"},
		"static address without address": {kind: "VirtualMachineIPAddress", spec: "{type: Static}", field: "spec"},
		"automatic address with address": {kind: "VirtualMachineIPAddress", spec: "{type: Auto, staticIP: 10.0.0.1}", field: "spec"},
	} {
		t.Run(name, func(t *testing.T) {
			j := judges[test.kind]
			manifest := func(spec string) map[string]any {
				return j.read(t, "metadata: {name: a}\nspec: "+spec)
			}
			var old map[string]any
			if test.old != "" {
				old = manifest(test.old)
			}
			refusals := j.refusals(t, manifest(test.spec), old)
			if test.field == "" {
				if len(refusals) > 0 {
					t.Errorf("refused: %v", refusals)
				}
				return
			}
			for _, refusal := range refusals {
				if refusal.Field == test.field {
					return
				}
			}
			t.Errorf("got %v, want a refusal at %s", refusals, test.field)
		})
	}
}

// apiJudges holds a judge for each kind of the API.
func apiJudges(t *testing.T) map[string]judge {
	t.Helper()
	judges := map[string]judge{}
	for name, content := range definitions(t, apiFiles(t)...) {
		if strings.HasSuffix(name, ".yaml") {
			kind, _ := fieldsOf(t, content)
			judges[kind] = newJudge(t, content)
		}
	}
	return judges
}
