// Package machinesnapshot has the rules of a VirtualMachineSnapshot: what its VM
// must be like, what is kept of it, and that all its disks are taken at one
// moment.
//
// It must not know how disks are frozen (package capture does), nor how a VM is
// made again.
package machinesnapshot

import (
	"context"
	"errors"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/disksnapshot"
	"orlop.dev/services/snapshot/internal/recipe"
)

// inspectEvery is how often it is looked whether a snapshot's data is still there.
const inspectEvery = time.Minute

// Capturer takes disks, and the memory of the guest that runs with them. See
// capture.Capturer.
type Capturer interface {
	disksnapshot.Capturer
	DropMemory(ctx context.Context, token string) error
}

// Objects are what snapshots are taken of.
type Objects interface {
	Disk(key resource.Key) (*diskv1.VirtualDisk, bool)
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
	Address(key resource.Key) (*networkv1.VirtualMachineIPAddress, bool)
	MAC(key resource.Key) (*networkv1.VirtualMachineMACAddress, bool)
	Attachments(machine resource.Key) []*vmv1.VirtualMachineBlockDeviceAttachment
	Secret(ctx context.Context, key resource.Key) (*secretv1.Secret, error)
}

// Children are the snapshots of the VM's disks.
type Children interface {
	// Make makes the snapshot of a disk, which goes with its parent and is held by
	// it, and returns its UID. Idempotent.
	Make(ctx context.Context, parent *snapshotv1.VirtualMachineSnapshot, name, disk string) (uid string, err error)
	// Wake has it looked at.
	Wake(key resource.Key)
	// Drop lets go of it, and deletes it if it is its parent's. Idempotent.
	Drop(ctx context.Context, parent *snapshotv1.VirtualMachineSnapshot, name string) error
}

// Reconciler takes snapshots of VMs.
type Reconciler struct {
	Objects  Objects
	Capturer Capturer
	Children Children
	Classes  disksnapshot.Classes
	Recipes  *recipe.Store
	Now      func() time.Time
}

// observation is what one look found, and all that a status is made from.
type observation struct {
	recipe *recipe.Recipe
	// taken counts the disks that are taken, consistent those that were at rest;
	// lost is one whose data is gone.
	taken, consistent int
	lost              string
	// memory is the token of the guest's memory; memoryLost is memory that was
	// wanted and could not be kept.
	memory     string
	memoryLost bool
	// waits says what a snapshot that is not taken waits for.
	waits *fault.Fault
	again time.Duration
}

// Admit refuses what the schema can't know to be wrong.
func (r *Reconciler) Admit(_ context.Context, _, snapshot *snapshotv1.VirtualMachineSnapshot) error {
	for _, choice := range snapshot.GetSpec().GetVolumeSnapshotClasses() {
		if err := r.Classes.Admit("spec.volumeSnapshotClasses.volumeSnapshotClassName", choice.GetVolumeSnapshotClassName()); err != nil {
			return err
		}
	}
	return nil
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot) (reconcile.Result, error) {
	o := new(observation)
	var err error
	if o.recipe, err = r.Recipes.Get(ctx, snapshot.GetMetadata().GetUid()); err != nil {
		return reconcile.Result{}, err
	}
	if resource.Terminating(snapshot) {
		gone, err := r.remove(ctx, snapshot, o)
		return reconcile.Result{Status: r.status(snapshot, o), Finalized: gone && err == nil}, err
	}
	err = r.step(ctx, snapshot, o)
	return reconcile.Result{Status: r.status(snapshot, o), After: o.again}, err
}

// step does what is to be done next.
func (r *Reconciler) step(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) error {
	switch {
	case o.recipe.Failure != nil:
		return nil
	case o.recipe.Complete:
		o.again = inspectEvery
		return r.look(ctx, o)
	case !o.recipe.Exists():
		return r.compose(ctx, snapshot, o)
	}
	return r.take(ctx, snapshot, o)
}

// look counts what is taken.
func (r *Reconciler) look(ctx context.Context, o *observation) error {
	o.taken, o.consistent, o.lost = 0, 0, ""
	for _, disk := range o.recipe.Disks {
		taken, err := r.Capturer.Taken(ctx, disk.Source.ID)
		if err != nil {
			return err
		}
		if taken == nil {
			continue
		}
		o.taken++
		o.memory, o.memoryLost = taken.Memory, taken.MemoryLost
		if taken.Consistent {
			o.consistent++
		}
		lost, err := r.Capturer.Lost(ctx, disk.Source.ID)
		if err != nil {
			return err
		}
		if lost {
			o.lost = disk.Snapshot
		}
	}
	return nil
}

// compose writes down what the VM is made of, if it may be taken.
func (r *Reconciler) compose(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) error {
	uid := snapshot.GetMetadata().GetUid()
	vm, waits := r.machine(snapshot)
	if o.waits = waits; waits != nil {
		return waits
	}
	refusal := r.refuse(vm)
	if refusal == nil {
		err := r.gather(ctx, snapshot, vm, o.recipe)
		if fault.Is(err, fault.NotFound, fault.NotReady, fault.Invalid) {
			refusal = fault.From(err)
		} else if err != nil {
			return err
		}
	}
	if refusal != nil {
		*o.recipe = recipe.Recipe{Version: o.recipe.Version, Failure: &recipe.Failure{Reason: refusal.Reason, Message: refusal.Message}}
	}
	o.again = time.Nanosecond // told first, then done
	return r.Recipes.Put(ctx, uid, o.recipe)
}

// take makes the snapshots of the disks and takes all of them at one moment.
func (r *Reconciler) take(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) error {
	uid := snapshot.GetMetadata().GetUid()
	var disks []capture.Disk
	for i := range o.recipe.Disks {
		disk := &o.recipe.Disks[i]
		var err error
		if disk.Source.ID, err = r.Children.Make(ctx, snapshot, disk.Snapshot, disk.Source.Name); err != nil {
			return err
		}
		disks = append(disks, disk.Source)
	}
	if err := r.Recipes.Put(ctx, uid, o.recipe); err != nil {
		return err
	}
	if err := r.look(ctx, o); err != nil {
		return err
	}
	if o.taken < len(disks) {
		if err := r.capture(ctx, snapshot, o, disks); err != nil || o.recipe.Failure != nil {
			return err
		}
	}
	o.recipe.Complete, o.recipe.Memory, o.again = true, o.memory, inspectEvery
	for _, disk := range o.recipe.Disks {
		r.Children.Wake(resource.Key{Namespace: disk.Source.Namespace, Name: disk.Snapshot})
	}
	return r.Recipes.Put(ctx, uid, o.recipe)
}

func (r *Reconciler) capture(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, o *observation, disks []capture.Disk) error {
	uid := snapshot.GetMetadata().GetUid()
	if err := r.Capturer.Begin(ctx, uid, disks, snapshot.GetSpec().GetIncludeMemory()); err != nil {
		return err
	}
	rest := vmv1.GuestRest_IfPossible
	if snapshot.GetSpec().GetRequiredConsistency() {
		rest = vmv1.GuestRest_Required
	}
	err := r.Capturer.Take(ctx, uid, rest)
	if fault.Is(err, fault.NotFound) {
		o.recipe.Failure = &recipe.Failure{Reason: reasonFailed, Message: "A disk of the VM went while the snapshot was taken."}
		return r.Recipes.Put(ctx, uid, o.recipe)
	}
	if fault.Is(err, fault.Invalid) {
		o.recipe.Failure = &recipe.Failure{Reason: reasonFailed, Message: fault.From(err).Message + "."}
		return errors.Join(r.Capturer.Abandon(ctx, uid), r.Recipes.Put(ctx, uid, o.recipe))
	}
	if fault.Is(err, fault.NotReady, fault.Exhausted) {
		o.waits = fault.From(err)
	}
	if err != nil {
		return err
	}
	return r.look(ctx, o)
}

// remove takes everything away once nobody makes anything of the snapshot, and
// reports whether nothing is left.
func (r *Reconciler) remove(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, o *observation) (bool, error) {
	if users := disksnapshot.Users(snapshot); users != "" {
		o.waits = fault.New(fault.NotReady, reasonWaiting, "Waits for %s.", users)
		return false, nil
	}
	uid := snapshot.GetMetadata().GetUid()
	if !o.recipe.Complete {
		if err := r.Capturer.Abandon(ctx, uid); err != nil {
			return false, err
		}
	}
	if snapshot.GetSpec().GetIncludeMemory() {
		if err := r.Capturer.DropMemory(ctx, uid); err != nil {
			return false, err
		}
	}
	for _, disk := range o.recipe.Disks {
		if err := r.Children.Drop(ctx, snapshot, disk.Snapshot); err != nil {
			return false, err
		}
	}
	return true, r.Recipes.Delete(ctx, uid)
}
