package export

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/labels"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/disk/internal/layer"
)

// subject is a kind of object that can be exported.
type subject interface {
	// hold keeps an object as it is until letGo, and tells where its data is.
	hold(ctx context.Context, key resource.Key) (held, error)
	letGo(ctx context.Context, h held) error
	// left are the holds of exports on all objects, whoever has them.
	left() ([]held, error)
	waitSynced(ctx context.Context) error
	// content tells how to read what is at a place that hold told.
	content(ctx context.Context, place string) (layer.Content, error)
}

// held is an object while it is exported.
type held struct {
	key    resource.Key
	holder *metav1.Holder
	// place is where its data is, as the storage knows it.
	place string
}

// holderOf is the export as a holder of an object.
func holderOf(object resource.Object) *metav1.Holder {
	meta := object.GetMetadata()
	return &metav1.Holder{
		Kind: HolderKind, Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: "export-" + meta.GetUid(), Active: true,
	}
}

// leftOn are the holds of exports on objects.
func leftOn[T resource.Object](objects []T) []held {
	var all []held
	for _, object := range objects {
		for _, holder := range object.GetMetadata().GetHolders() {
			if holder.GetKind() == HolderKind {
				all = append(all, held{key: resource.KeyOf(object), holder: holder})
			}
		}
	}
	return all
}

// Disks are the VirtualDisks that there are.
type Disks interface {
	Get(key resource.Key) (*diskv1.VirtualDisk, error)
	All(namespace string, selector labels.Selector) ([]*diskv1.VirtualDisk, error)
	AddHolder(ctx context.Context, key resource.Key, holder *metav1.Holder, admit func(*diskv1.VirtualDisk) error) (*diskv1.VirtualDisk, error)
	RemoveHolder(ctx context.Context, key resource.Key, holderUID string) (*diskv1.VirtualDisk, error)
	WaitSynced(ctx context.Context) error
}

// Volumes keeps the data of disks, by their UIDs.
type Volumes interface {
	// Interrupt ends background work on a volume.
	Interrupt(ctx context.Context, id string) error
	// Content tells how to read it.
	Content(ctx context.Context, id string) (layer.Content, error)
}

// disks implements subject: VMs must not write to a disk meanwhile.
type disks struct {
	Disks
	volumes Volumes
	admit   func(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error
}

func (d disks) hold(ctx context.Context, key resource.Key) (held, error) {
	disk, err := d.Get(key)
	if err != nil {
		return held{}, err
	}
	holder := holderOf(disk)
	disk, err = d.AddHolder(ctx, key, holder, func(current *diskv1.VirtualDisk) error { return d.admit(ctx, current, holder) })
	return held{key: key, holder: holder, place: disk.GetMetadata().GetUid()}, err
}

func (d disks) letGo(ctx context.Context, h held) error {
	_, err := d.RemoveHolder(ctx, h.key, h.holder.GetUid())
	return err
}

func (d disks) left() ([]held, error) {
	all, err := d.All("", nil)
	return leftOn(all), err
}

func (d disks) waitSynced(ctx context.Context) error { return d.WaitSynced(ctx) }

func (d disks) content(ctx context.Context, id string) (layer.Content, error) {
	if err := d.volumes.Interrupt(ctx, id); err != nil {
		return layer.Content{}, err
	}
	return d.volumes.Content(ctx, id)
}

// Snapshots are the VirtualDiskSnapshots that there are.
type Snapshots interface {
	Get(key resource.Key) (*snapshotv1.VirtualDiskSnapshot, bool)
	List(namespace string, selector labels.Selector) []*snapshotv1.VirtualDiskSnapshot
	Claim(ctx context.Context, name string, holder *metav1.Holder) (*snapshotv1.FrozenDisk, error)
	Release(ctx context.Context, name string, holder *metav1.Holder) error
	WaitSynced(ctx context.Context) error
}

// Layers keeps the data of snapshots, by name.
type Layers interface {
	LayerContent(ctx context.Context, name string) (layer.Content, error)
}

// snapshots implements subject: a snapshot must not go meanwhile.
type snapshots struct {
	Snapshots
	layers Layers
}

func (s snapshots) hold(ctx context.Context, key resource.Key) (held, error) {
	snapshot, found := s.Get(key)
	if !found {
		return held{}, fault.New(fault.NotFound, resource.ReasonNotFound, "virtualdisksnapshot %q not found", key.Name)
	}
	holder := holderOf(snapshot)
	frozen, err := s.Claim(ctx, key.Name, holder)
	return held{key: key, holder: holder, place: frozen.GetLayer()}, err
}

func (s snapshots) letGo(ctx context.Context, h held) error {
	err := s.Release(ctx, h.key.Name, h.holder)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func (s snapshots) left() ([]held, error) { return leftOn(s.List("", nil)), nil }

func (s snapshots) waitSynced(ctx context.Context) error { return s.WaitSynced(ctx) }

func (s snapshots) content(ctx context.Context, name string) (layer.Content, error) {
	content, err := s.layers.LayerContent(ctx, name)
	if errors.Is(err, layer.ErrNoLayer) {
		err = fault.Wrap(err, fault.NotReady, "VirtualDiskSnapshotNotReady", "the snapshot has lost its data")
	}
	return content, err
}
