// Package storageclass has the storage classes of one machine, and says which
// of them a disk gets.
//
// It owns one record: the cluster's default. It must not know what a disk is.
package storageclass

import (
	"context"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/record"
)

// Names of the classes.
const (
	// Local has disks that are made at once and that every node reaches.
	Local = "local"
	// LocalFirstConsumer has disks that are made on the node of the first VM that
	// runs with them, and stay there.
	LocalFirstConsumer = "local-wffc"
)

// ReasonNotReady is the reason of a class that there isn't.
const ReasonNotReady = "StorageClassNotReady"

const provisioner = "local.orlop.dev"

func all() []*diskv1.StorageClass {
	return []*diskv1.StorageClass{
		{
			Name: Local, Provisioner: provisioner, AllowVolumeExpansion: true, ReclaimPolicy: "Delete",
			VolumeBindingMode: diskv1.VolumeBindingMode_Immediate, AccessMode: diskv1.AccessMode_ReadWriteMany,
		},
		{
			Name: LocalFirstConsumer, Provisioner: provisioner, AllowVolumeExpansion: true, ReclaimPolicy: "Delete",
			VolumeBindingMode: diskv1.VolumeBindingMode_WaitForFirstConsumer, AccessMode: diskv1.AccessMode_ReadWriteOnce,
		},
	}
}

// Classes are the storage classes that there are. They are served as
// diskv1.StorageClassServiceServer.
type Classes struct {
	diskv1.UnimplementedStorageClassServiceServer

	choices             *record.Store[choice, *choice]
	configured, ofImage string
	changed             func()
}

// Options say what goes beside the classes.
type Options struct {
	Etcd   *clientv3.Client
	Prefix string
	// Default is the configuration's, and goes before the cluster's. May be empty.
	Default string
	// DefaultForImages is the same for images.
	DefaultForImages string
	// Changed is told that the cluster has another default. It must not block.
	Changed func()
}

// New returns the classes of one machine.
func New(opts Options) *Classes {
	return &Classes{
		choices:    record.New[choice](opts.Etcd, opts.Prefix+"/storageclass/"),
		configured: opts.Default, ofImage: opts.DefaultForImages, changed: opts.Changed,
	}
}

// Choose returns the class of that name, or the default one where it is empty.
// Class NotReady, ReasonNotReady where there is none.
func (c *Classes) Choose(ctx context.Context, name string) (*diskv1.StorageClass, error) {
	return c.choose(ctx, name, c.configured)
}

// ChooseForImage is Choose for an image, which has a default of its own.
func (c *Classes) ChooseForImage(ctx context.Context, name string) (*diskv1.StorageClass, error) {
	return c.choose(ctx, name, c.ofImage)
}

func (c *Classes) choose(ctx context.Context, name, configured string) (*diskv1.StorageClass, error) {
	which := "there is no storage class"
	if name == "" && configured != "" {
		name, which = configured, "the configuration's default storage class does not exist:"
	}
	if name == "" {
		marked, err := c.marked(ctx)
		if err != nil {
			return nil, err
		}
		name, which = marked, "the cluster's default storage class is not one for disks:"
	}
	var names []string
	for _, class := range all() {
		if class.GetName() == name {
			return class, nil
		}
		names = append(names, class.GetName())
	}
	choice := strings.Join(names, ", ")
	if name == "" {
		return nil, fault.New(fault.NotReady, ReasonNotReady, "no storage class is the default: name one of %s", choice)
	}
	return nil, fault.New(fault.NotReady, ReasonNotReady, "%s %q: name one of %s", which, name, choice)
}

// choice is the class that is the cluster's default; none where Name is empty.
type choice struct {
	record.Version

	Name string `json:"name"`
}

// defaultClass is the key of the one choice that there is.
const defaultClass = "default"

// marked is the cluster's default: Local until somebody says something else,
// empty where it was said that there is none.
func (c *Classes) marked(ctx context.Context) (string, error) {
	chosen, err := c.choices.Get(ctx, defaultClass)
	switch {
	case err != nil:
		return "", err
	case !chosen.Exists():
		return Local, nil
	}
	return chosen.Name, nil
}

// ListStorageClasses implements diskv1.StorageClassServiceServer.
func (c *Classes) ListStorageClasses(ctx context.Context, _ *diskv1.ListStorageClassesRequest) (*diskv1.ListStorageClassesResponse, error) {
	marked, err := c.marked(ctx)
	if err != nil {
		return nil, err
	}
	response := &diskv1.ListStorageClassesResponse{Items: all()}
	for _, class := range response.GetItems() {
		class.IsDefault = class.GetName() == marked
	}
	return response, nil
}

// SetDefaultStorageClass implements diskv1.StorageClassServiceServer.
func (c *Classes) SetDefaultStorageClass(ctx context.Context, request *diskv1.SetDefaultStorageClassRequest) (*diskv1.SetDefaultStorageClassResponse, error) {
	before, err := c.marked(ctx)
	if err != nil {
		return nil, err
	}
	if before == request.GetName() {
		return &diskv1.SetDefaultStorageClassResponse{}, nil
	}
	if err := c.choices.Change(ctx, defaultClass, func(chosen *choice) { chosen.Name = request.GetName() }); err != nil {
		return nil, err
	}
	c.changed()
	return &diskv1.SetDefaultStorageClassResponse{}, nil
}
