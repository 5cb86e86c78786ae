// Package class has the volume snapshot classes of one machine.
//
// It must not know what a snapshot is.
package class

import (
	"context"
	"strings"

	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
)

// Local is the class of disks in the storage of this machine.
const Local = "local"

const driver = "local.orlop.dev"

// Classes are the classes that there are. They are served as
// snapshotv1.VolumeSnapshotClassServiceServer.
type Classes struct {
	snapshotv1.UnimplementedVolumeSnapshotClassServiceServer

	// Aliases are further names of Local, for manifests that come from elsewhere.
	Aliases []string
}

func (c *Classes) names() []string { return append([]string{Local}, c.Aliases...) }

// ListVolumeSnapshotClasses implements snapshotv1.VolumeSnapshotClassServiceServer.
func (c *Classes) ListVolumeSnapshotClasses(context.Context, *snapshotv1.ListVolumeSnapshotClassesRequest) (*snapshotv1.ListVolumeSnapshotClassesResponse, error) {
	response := new(snapshotv1.ListVolumeSnapshotClassesResponse)
	for _, name := range c.names() {
		response.Items = append(response.Items, &snapshotv1.VolumeSnapshotClass{Name: name, Driver: driver, DeletionPolicy: "Delete"})
	}
	return response, nil
}

// Admit refuses a class that there isn't, at a field's path. Empty is the one
// that there is.
func (c *Classes) Admit(path, name string) error {
	if name == "" {
		return nil
	}
	for _, known := range c.names() {
		if name == known {
			return nil
		}
	}
	return fault.Refuse(path, "FieldValueNotFound", "there is no VolumeSnapshotClass %q: name one of %s, or none", name, strings.Join(c.names(), ", "))
}
