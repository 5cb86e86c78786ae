// Package recipe keeps what a VM is made again from, besides its disks' data:
// manifests, and the content of the Secret that sets the VM up.
//
// It owns one etcd key a VM snapshot. It must not know when a VM is taken, nor
// how it is made again.
package recipe

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/manifest"
	"orlop.dev/kit/resource/record"
	"orlop.dev/services/snapshot/internal/capture"
)

// Recipe is what is kept of one VM.
type Recipe struct {
	record.Version

	// Machine, Address and MAC are manifests; an address is not kept where another
	// one will do.
	Machine json.RawMessage `json:"machine,omitempty"`
	Address json.RawMessage `json:"address,omitempty"`
	MAC     json.RawMessage `json:"mac,omitempty"`
	// Attachments are the manifests of what was attached to the VM while it ran.
	Attachments []json.RawMessage `json:"attachments,omitempty"`
	Disks       []Disk            `json:"disks,omitempty"`
	Secret      *Secret           `json:"secret,omitempty"`

	// Memory is the token under which the running guest's memory is kept; empty where
	// it isn't.
	Memory string `json:"memory,omitempty"`
	// Complete is a recipe whose disks are all taken, Failure one that never will
	// be.
	Complete bool     `json:"complete,omitempty"`
	Failure  *Failure `json:"failure,omitempty"`
}

// Disk is a disk of the VM.
type Disk struct {
	// Manifest of the VirtualDisk.
	Manifest json.RawMessage `json:"manifest"`
	// Snapshot is the name of its VirtualDiskSnapshot.
	Snapshot string `json:"snapshot"`
	// Source is the disk as it was; its ID is the UID of the snapshot, once there
	// is one.
	Source capture.Disk `json:"source"`
}

// Secret is never logged, and written down here alone.
type Secret struct {
	Name string            `json:"name"`
	Type string            `json:"type"`
	Data map[string][]byte `json:"data"`
}

// Failure says why a recipe was not taken.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Store keeps the recipes by the UIDs of their VM snapshots.
type Store = record.Store[Recipe, *Recipe]

// NewStore returns the recipes of a service's prefix.
func NewStore(client *clientv3.Client, prefix string) *Store {
	return record.New[Recipe](client, prefix+"/recipe/")
}

// foreign begin the keys of annotations and labels that say where an object is
// from, which is not true of another one.
var foreign = []string{
	"orlop.dev/", "kubectl.kubernetes.io/", "virtualization.deckhouse.io/virtual-machine-uid",
	"snapshot.orlop.dev/restored-by",
}

// Encode is an object's manifest without what is true of that one object only.
func Encode(object resource.Object) (json.RawMessage, error) {
	bare := proto.Clone(object)
	message := bare.ProtoReflect()
	if status := message.Descriptor().Fields().ByName("status"); status != nil {
		message.Clear(status)
	}
	whole, err := manifest.Encode(bare)
	if err != nil {
		return nil, err
	}
	meta := object.GetMetadata()
	whole["metadata"] = map[string]any{
		"name": meta.GetName(), "labels": own(meta.GetLabels()), "annotations": own(meta.GetAnnotations()),
	}
	return json.Marshal(whole)
}

func own(all map[string]string) map[string]any {
	kept := map[string]any{}
	for key, value := range all {
		if !hasPrefix(key, foreign) {
			kept[key] = value
		}
	}
	return kept
}

// Overwritten are the annotations or labels of an object that is put back: those
// that were kept, and what is true of that one object.
func Overwritten(there, kept map[string]string) map[string]string {
	all := map[string]string{}
	for key, value := range there {
		if hasPrefix(key, foreign) {
			all[key] = value
		}
	}
	maps.Copy(all, kept)
	return all
}

func hasPrefix(key string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// Decode reads a manifest into an object of its kind.
func Decode[T resource.Object](text json.RawMessage, into T) (T, error) {
	if err := manifest.DecodeJSON(text, into); err != nil {
		return into, fmt.Errorf("recipe: %w", err)
	}
	return into, nil
}

// Header is what every manifest begins with.
type Header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
}

// Headers are those of all that the recipe has, the VM first.
func (r *Recipe) Headers() []Header {
	manifests := []json.RawMessage{r.Machine}
	for _, disk := range r.Disks {
		manifests = append(manifests, disk.Manifest)
	}
	manifests = append(manifests, r.Attachments...)
	for _, address := range []json.RawMessage{r.Address, r.MAC} {
		if address != nil {
			manifests = append(manifests, address)
		}
	}
	var headers []Header
	for _, text := range manifests {
		var h Header
		if json.Unmarshal(text, &h) == nil && h.Kind != "" {
			headers = append(headers, h)
		}
	}
	if r.Secret != nil {
		secret := Header{APIVersion: "v1", Kind: "Secret"}
		secret.Metadata.Name = r.Secret.Name
		headers = append(headers, secret)
	}
	return headers
}
