package virtualdisk

import (
	"context"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/labels"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

func isSnapshot(ref *diskv1.DiskObjectRef) bool {
	return ref.GetKind() == diskv1.DiskObjectRefKind_VirtualDiskSnapshot
}

// prepareSnapshot reports whether the snapshot is there that the disk is made
// from. It finds the size where the spec has none.
func (r *Reconciler) prepareSnapshot(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (bool, error) {
	if r.Snapshots == nil {
		return false, fault.New(fault.Invalid, reasonNotSupported, "spec.dataSource.objectRef.kind VirtualDiskSnapshot: there is no snapshot service here")
	}
	ref := disk.GetSpec().GetDataSource().GetObjectRef()
	o.image = r.Snapshots.State(resource.Key{Namespace: disk.GetMetadata().GetNamespace(), Name: ref.GetName()})
	if waits := waiting(ref, o.image); waits != nil {
		o.sourceFault = waits
		return false, waits
	}
	frozen, found, err := r.Layers.Layer(ctx, o.image.Layer)
	if err != nil {
		return false, err
	}
	if !found || frozen.Lost {
		o.sourceFault = fault.New(fault.NotReady, reasonSnapshotNotReady, "%s has lost its data", describe(ref))
		return false, o.sourceFault
	}
	return true, fit(content{name: describe(ref), virtualBytes: frozen.VirtualBytes}, o)
}

// claimSnapshot keeps the snapshot until the disk is made.
func (r *Reconciler) claimSnapshot(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (*snapshotv1.FrozenDisk, error) {
	if err := r.take(ctx, disk, o); err != nil {
		return nil, err
	}
	frozen, err := r.Snapshots.Claim(ctx, disk.GetSpec().GetDataSource().GetObjectRef().GetName(), holderOf(disk))
	if err != nil {
		o.sourceFault = fault.From(err)
	}
	return frozen, err
}

// SnapshotMirror implements Snapshots on a copy of the snapshot service's objects.
type SnapshotMirror struct {
	mirror *resource.Mirror[*snapshotv1.VirtualDiskSnapshot]
}

// NewSnapshotMirror returns a copy over a connection to the snapshot service.
// changed is told of each snapshot that changed.
func NewSnapshotMirror(conn grpc.ClientConnInterface, changed func(*diskv1.DiskObjectRef, string)) (*SnapshotMirror, error) {
	mirror, err := newMirror[*snapshotv1.VirtualDiskSnapshot](conn, diskv1.DiskObjectRefKind_VirtualDiskSnapshot, changed)
	return &SnapshotMirror{mirror: mirror}, err
}

// Run keeps the copy until ctx ends.
func (m *SnapshotMirror) Run(ctx context.Context) error { return m.mirror.Run(ctx) }

// WaitSynced blocks until the copy is complete, or ctx ends.
func (m *SnapshotMirror) WaitSynced(ctx context.Context) error { return m.mirror.WaitSynced(ctx) }

// Get returns a snapshot, false where there is none.
func (m *SnapshotMirror) Get(key resource.Key) (*snapshotv1.VirtualDiskSnapshot, bool) {
	return m.mirror.Get(key)
}

// List returns the snapshots of a namespace (empty: all) that selector selects.
func (m *SnapshotMirror) List(namespace string, selector labels.Selector) []*snapshotv1.VirtualDiskSnapshot {
	return m.mirror.List(namespace, selector)
}

// LayerOf returns the UID of a snapshot and the layer with its data. Class NotReady
// where it is not there yet, or not any more.
func (m *SnapshotMirror) LayerOf(key resource.Key) (uid, layer string, err error) {
	state := m.State(key)
	if waits := waiting(&diskv1.DiskObjectRef{Kind: diskv1.DiskObjectRefKind_VirtualDiskSnapshot, Name: key.Name}, state); waits != nil {
		return "", "", waits
	}
	return state.UID, state.Layer, nil
}

// State implements Snapshots.
func (m *SnapshotMirror) State(key resource.Key) ImageState {
	snapshot, found := m.mirror.Get(key)
	status := snapshot.GetStatus()
	phase := status.GetPhase()
	if phase == 0 {
		phase = snapshotv1.SnapshotPhase_Pending // nobody has looked at it yet
	}
	return ImageState{
		Found: found, Ready: phase == snapshotv1.SnapshotPhase_Ready, Unknown: !m.mirror.Synced(),
		UID: snapshot.GetMetadata().GetUid(), Phase: phase.String(), Layer: status.GetVolumeSnapshotName(),
	}
}

// Claim implements Snapshots.
func (m *SnapshotMirror) Claim(ctx context.Context, name string, holder *metav1.Holder) (*snapshotv1.FrozenDisk, error) {
	frozen := new(snapshotv1.FrozenDisk)
	return frozen, m.mirror.Client().Claim(ctx, resource.Key{Namespace: holder.GetNamespace(), Name: name}, holder, frozen)
}

// Release implements Snapshots.
func (m *SnapshotMirror) Release(ctx context.Context, name string, holder *metav1.Holder) error {
	return m.mirror.Client().Release(ctx, resource.Key{Namespace: holder.GetNamespace(), Name: name}, holder.GetUid())
}
