package snapshot

import (
	"context"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
)

// followPause keeps a watch that fails at once from turning hot.
const followPause = 500 * time.Millisecond

// changed wakes what waits for a disk or a VM of the namespace.
func (s *Service) changed(_ string, key resource.Key) {
	wake(s.disks, key.Namespace, func(o *snapshotv1.VirtualDiskSnapshot) bool {
		return o.GetStatus().GetPhase() == snapshotv1.SnapshotPhase_Pending
	})
	wake(s.machines, key.Namespace, func(o *snapshotv1.VirtualMachineSnapshot) bool {
		return o.GetStatus().GetPhase() == snapshotv1.SnapshotPhase_Pending
	})
	// Those that put a VM back wait for it to be off.
	wake(s.restores, key.Namespace, func(o *snapshotv1.VirtualMachineRestore) bool {
		return o.GetStatus().GetPhase() == snapshotv1.RestorePhase_InProgress
	})
	wake(s.operations, key.Namespace, func(o *snapshotv1.VirtualMachineSnapshotOperation) bool {
		return o.GetStatus().GetPhase() == vmv1.OperationPhase_InProgress
	})
}

// wake wakes the objects of a namespace that are concerned. Before the copy is
// there it wakes none: the loop will see all of them anyway.
func wake[T resource.Object](k *kept[T], namespace string, concerned func(T) bool) {
	if k == nil {
		return
	}
	all, err := k.All(namespace, nil)
	if err != nil {
		return
	}
	for _, object := range all {
		if concerned(object) {
			k.loop.Trigger(resource.KeyOf(object))
		}
	}
}

// follow wakes what waits for VM snapshots, until ctx ends: restores, operations,
// and disks' snapshots whose VM's is gone.
func (s *Service) follow(ctx context.Context) error {
	for {
		for event, err := range s.machines.Watch(ctx, resource.WatchOptions{}) {
			if err != nil {
				break
			}
			if event.Type != resource.Bookmark {
				s.snapshotChanged(event)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

func (s *Service) snapshotChanged(event resource.Event[*snapshotv1.VirtualMachineSnapshot]) {
	meta := event.Object.GetMetadata()
	wake(s.restores, meta.GetNamespace(), func(o *snapshotv1.VirtualMachineRestore) bool {
		return o.GetSpec().GetVirtualMachineSnapshotName() == meta.GetName()
	})
	wake(s.operations, meta.GetNamespace(), func(o *snapshotv1.VirtualMachineSnapshotOperation) bool {
		return o.GetSpec().GetVirtualMachineSnapshotName() == meta.GetName()
	})
	if event.Type == resource.Deleted {
		wake(s.disks, meta.GetNamespace(), func(o *snapshotv1.VirtualDiskSnapshot) bool {
			for _, owner := range o.GetMetadata().GetOwnerReferences() {
				if owner.GetUid() == meta.GetUid() {
					return true
				}
			}
			return false
		})
	}
}

// cascade adds to the rules of disks' snapshots that one goes with its VM's.
func (s *Service) cascade(rules reconcile.Reconciler[*snapshotv1.VirtualDiskSnapshot]) reconcile.Reconciler[*snapshotv1.VirtualDiskSnapshot] {
	return reconcile.Cascade(deleter{s}, s.ownerIsThere, rules)
}

// deleter is the collection of disks' snapshots, which is not there yet when its
// rules are made.
type deleter struct{ *Service }

func (d deleter) Delete(ctx context.Context, key resource.Key, pre resource.Preconditions) (*snapshotv1.VirtualDiskSnapshot, error) {
	return d.disks.Delete(ctx, key, pre)
}

// ownerIsThere implements reconcile.Owners. What isn't a VM's snapshot is somebody
// else's to know.
func (s *Service) ownerIsThere(_ context.Context, namespace string, owner *metav1.OwnerReference) (bool, error) {
	if owner.GetKind() != s.machines.Kind().Name {
		return true, nil
	}
	found, err := s.machines.Get(resource.Key{Namespace: namespace, Name: owner.GetName()})
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && (owner.GetUid() == "" || found.GetMetadata().GetUid() == owner.GetUid()), err
}

// holderOf is a VM's snapshot as its disks' snapshots know it.
func holderOf(parent *snapshotv1.VirtualMachineSnapshot) *metav1.Holder {
	meta := parent.GetMetadata()
	return &metav1.Holder{Kind: parent.GetKind(), Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true}
}

// Make implements machinesnapshot.Children.
func (s *Service) Make(ctx context.Context, parent *snapshotv1.VirtualMachineSnapshot, name, disk string) (string, error) {
	controller, meta, required := true, parent.GetMetadata(), parent.GetSpec().GetRequiredConsistency()
	child := resource.New[*snapshotv1.VirtualDiskSnapshot](s.disks.Kind())
	child.Metadata = &metav1.ObjectMeta{
		Namespace: meta.GetNamespace(), Name: name,
		OwnerReferences: []*metav1.OwnerReference{{
			ApiVersion: parent.GetApiVersion(), Kind: parent.GetKind(), Name: meta.GetName(), Uid: meta.GetUid(), Controller: &controller,
		}},
	}
	child.Spec = &snapshotv1.VirtualDiskSnapshotSpec{VirtualDiskName: disk, RequiredConsistency: &required}
	key := resource.KeyOf(child)
	if _, err := s.disks.Create(ctx, child); err != nil && !fault.Is(err, fault.Exists) {
		return "", err
	}
	held, err := s.disks.AddHolder(ctx, key, holderOf(parent), func(*snapshotv1.VirtualDiskSnapshot) error { return nil })
	return held.GetMetadata().GetUid(), err
}

// Wake implements machinesnapshot.Children.
func (s *Service) Wake(key resource.Key) { s.disks.loop.Trigger(key) }

// Drop implements machinesnapshot.Children.
func (s *Service) Drop(ctx context.Context, parent *snapshotv1.VirtualMachineSnapshot, name string) error {
	key := resource.Key{Namespace: parent.GetMetadata().GetNamespace(), Name: name}
	child, err := s.disks.RemoveHolder(ctx, key, parent.GetMetadata().GetUid())
	if err != nil || child == nil {
		return err
	}
	for _, owner := range child.GetMetadata().GetOwnerReferences() {
		if owner.GetUid() != parent.GetMetadata().GetUid() {
			continue
		}
		_, err := s.disks.Delete(ctx, key, resource.Preconditions{UID: child.GetMetadata().GetUid()})
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	}
	return nil // somebody keeps it for itself
}

// Snapshot implements rebuild.Snapshots.
func (s *Service) Snapshot(key resource.Key) (*snapshotv1.VirtualMachineSnapshot, bool) {
	found, err := s.machines.Get(key)
	return found, err == nil
}

// Hold implements rebuild.Snapshots.
func (s *Service) Hold(ctx context.Context, key resource.Key, holder *metav1.Holder) error {
	_, err := s.machines.AddHolder(ctx, key, holder, func(*snapshotv1.VirtualMachineSnapshot) error { return nil })
	return err
}

// LetGo implements rebuild.Snapshots.
func (s *Service) LetGo(ctx context.Context, key resource.Key, uid string) error {
	_, err := s.machines.RemoveHolder(ctx, key, uid)
	return err
}
