package doors_test

import (
	"maps"
	"testing"

	"sigs.k8s.io/yaml"
)

// document is a manifest or a part of one, as JSON has it.
type document = map[string]any

func parse(t *testing.T, text string) document {
	t.Helper()
	var d document
	check(t, yaml.Unmarshal([]byte(text), &d))
	return d
}

func render(t *testing.T, d document) string {
	t.Helper()
	text, err := yaml.Marshal(d)
	check(t, err)
	return string(text)
}

// merged is base with a JSON merge patch (RFC 7396) over it.
func merged(base, patch document) document {
	out := maps.Clone(base)
	if out == nil {
		out = document{}
	}
	for name, value := range patch {
		inner, isMap := value.(document)
		switch {
		case value == nil:
			delete(out, name)
		case isMap:
			before, _ := out[name].(document)
			out[name] = merged(before, inner)
		default:
			out[name] = value
		}
	}
	return out
}

// usable are specs that every rule allows, for tests to spoil.
var usable = map[string]string{
	"VirtualImage": `
storage: ContainerRegistry
dataSource: {type: HTTP, http: {url: "https://images.example.com/a.qcow2"}}`,
	"ClusterVirtualImage": `
dataSource: {type: HTTP, http: {url: "https://images.example.com/a.qcow2"}}`,
	"VirtualDisk": `
persistentVolumeClaim: {size: 1Gi}`,
	"VirtualMachineClass": `
cpu: {type: Host}
sizingPolicies:
- cores: {min: 1, max: 4}`,
	"VirtualMachine": `
virtualMachineClassName: host
cpu: {cores: 1}
memory: {size: 1Gi}
blockDeviceRefs:
- {kind: VirtualDisk, name: root}`,
	"VirtualMachineOperation": `
type: Restart
virtualMachineName: linux-vm`,
	"VirtualMachineIPAddress": `
type: Static
staticIP: 10.66.10.14`,
	"VirtualMachineIPAddressLease": `
virtualMachineIPAddressRef: {name: linux-vm-7prpx, namespace: default}`,
	"VirtualMachineMACAddress": `
address: "02:4f:52:4c:4f:50"`,
	"VirtualMachineMACAddressLease": `
virtualMachineMACAddressRef: {name: linux-vm-7prpx, namespace: default}`,
}

// manifestOf is an object of a kind: the usable spec with a patch over it.
func manifestOf(t *testing.T, kind, name, patch string) document {
	t.Helper()
	return document{
		"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": kind,
		"metadata": document{"name": name},
		"spec":     merged(parse(t, usable[kind]), parse(t, patch)),
	}
}
