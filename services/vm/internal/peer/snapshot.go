package peer

import (
	"context"

	"google.golang.org/grpc"

	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// Snapshots implements operation.Snapshots. It keeps nothing: each look asks.
type Snapshots struct {
	snapshots  *resource.Client[*snapshotv1.VirtualMachineSnapshot]
	operations *resource.Client[*snapshotv1.VirtualMachineSnapshotOperation]
}

// NewSnapshots reaches the snapshot service over conn.
func NewSnapshots(conn grpc.ClientConnInterface) (*Snapshots, error) {
	snapshots, err := resource.NewClient[*snapshotv1.VirtualMachineSnapshot](conn, kind.Must(&snapshotv1.VirtualMachineSnapshot{}))
	if err != nil {
		return nil, err
	}
	operations, err := resource.NewClient[*snapshotv1.VirtualMachineSnapshotOperation](conn, kind.Must(&snapshotv1.VirtualMachineSnapshotOperation{}))
	return &Snapshots{snapshots: snapshots, operations: operations}, err
}

// Snapshot implements operation.Snapshots.
func (s *Snapshots) Snapshot(ctx context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshot, error) {
	return s.snapshots.Get(ctx, key)
}

// Operation implements operation.Snapshots.
func (s *Snapshots) Operation(ctx context.Context, key resource.Key) (*snapshotv1.VirtualMachineSnapshotOperation, error) {
	return s.operations.Get(ctx, key)
}

// Make implements operation.Snapshots.
func (s *Snapshots) Make(ctx context.Context, object resource.Object) error {
	var err error
	switch object := object.(type) {
	case *snapshotv1.VirtualMachineSnapshot:
		object.ApiVersion, object.Kind = s.snapshots.Kind().APIVersion(), s.snapshots.Kind().Name
		_, err = s.snapshots.Create(ctx, object, resource.WriteOptions{})
	case *snapshotv1.VirtualMachineSnapshotOperation:
		object.ApiVersion, object.Kind = s.operations.Kind().APIVersion(), s.operations.Kind().Name
		_, err = s.operations.Create(ctx, object, resource.WriteOptions{})
	}
	if fault.Is(err, fault.Exists) {
		return nil
	}
	return err
}

// Delete implements operation.Snapshots.
func (s *Snapshots) Delete(ctx context.Context, object resource.Object) error {
	key := resource.KeyOf(object)
	options := resource.DeleteOptions{AllowMissing: true, Preconditions: resource.Preconditions{UID: object.GetMetadata().GetUid()}}
	var err error
	switch object.(type) {
	case *snapshotv1.VirtualMachineSnapshot:
		_, err = s.snapshots.Delete(ctx, key, options)
	case *snapshotv1.VirtualMachineSnapshotOperation:
		_, err = s.operations.Delete(ctx, key, options)
	}
	return err
}
