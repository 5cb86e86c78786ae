// Package restore has the rules of a VirtualMachineRestore: which snapshot it
// waits for, and what it says of the VM that is made again.
//
// It must not know how that is done (package rebuild does).
package restore

import (
	"context"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/rebuild"
)

// Reconciler restores VMs.
type Reconciler struct {
	Engine *rebuild.Engine
	Now    func() time.Time
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, restore *snapshotv1.VirtualMachineRestore) (reconcile.Result, error) {
	job := jobOf(restore)
	if resource.Terminating(restore) {
		gone, o, err := r.Engine.Remove(ctx, job)
		return reconcile.Result{Status: r.status(restore, o), Finalized: gone && err == nil, After: o.Again}, err
	}
	o, err := r.Engine.Step(ctx, job)
	return reconcile.Result{Status: r.status(restore, o), After: o.Again}, err
}

func jobOf(restore *snapshotv1.VirtualMachineRestore) *rebuild.Job {
	job := &rebuild.Job{
		Owner:    holderOf(restore),
		Snapshot: restore.GetSpec().GetVirtualMachineSnapshotName(),
		InPlace:  restore.GetSpec().GetRestoreMode() == snapshotv1.RestoreMode_Forced,
	}
	for _, one := range restore.GetSpec().GetNameReplacements() {
		job.Names.Replacements = append(job.Names.Replacements, rebuild.Replacement{
			Kind: one.GetFrom().GetKind(), Name: one.GetFrom().GetName(), To: one.GetTo(),
		})
	}
	return job
}

func holderOf(restore *snapshotv1.VirtualMachineRestore) *metav1.Holder {
	meta := restore.GetMetadata()
	return &metav1.Holder{
		Kind: "VirtualMachineRestore", Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
	}
}
