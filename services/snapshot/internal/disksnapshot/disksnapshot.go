// Package disksnapshot has the rules of a VirtualDiskSnapshot: what it waits for,
// when it is taken, what its status says.
//
// It must not know how a disk is frozen (package capture does), nor what is made
// from a snapshot.
package disksnapshot

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
)

// Reasons of conditions (api.md of the platform, A.2).
const (
	reasonDiskReady    = "VirtualDiskReady"
	reasonDiskNotReady = "VirtualDiskNotReadyForSnapshotting"
	reasonWaiting      = "WaitingForTheVirtualDisk"
	reasonInconsistent = "PotentiallyInconsistent"
	reasonLost         = "Lost"
	reasonSnapshotting = "Snapshotting"
	reasonReady        = "VirtualDiskSnapshotReady"
	reasonFailed       = "VirtualDiskSnapshotFailed"
)

const (
	// KindMachineSnapshot is the controller of a snapshot that is taken with others.
	KindMachineSnapshot = "VirtualMachineSnapshot"

	kindMachine = "VirtualMachine"
	agentReady  = "AgentReady"
	// inspectEvery is how often it is looked whether a snapshot's data is still there.
	inspectEvery = time.Minute
)

// Objects are what snapshots are taken of.
type Objects interface {
	Disk(key resource.Key) (*diskv1.VirtualDisk, bool)
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
}

// Capturer takes what disks show. See capture.Capturer.
type Capturer interface {
	Begin(ctx context.Context, token string, disks []capture.Disk, memory bool) error
	Take(ctx context.Context, token string, rest vmv1.GuestRest_Value) error
	Abandon(ctx context.Context, token string, ids ...string) error
	Taken(ctx context.Context, id string) (*capture.Taken, error)
	Lost(ctx context.Context, id string) (bool, error)
}

// Classes judges the names of volume snapshot classes.
type Classes interface {
	Admit(path, name string) error
}

// Reconciler takes snapshots of disks.
type Reconciler struct {
	Objects  Objects
	Capturer Capturer
	Classes  Classes
	// Begun reports whether the taking of a snapshot was begun.
	Begun func(ctx context.Context, uid string) (bool, error)
	Now   func() time.Time
}

// observation is what one look found, and all that a status is made from.
type observation struct {
	taken *capture.Taken
	// lost is data that was taken and is gone.
	lost bool
	// begun is a snapshot that is being taken.
	begun bool
	// waits says what a snapshot that is not taken waits for, failed why it never
	// will be.
	waits, failed *fault.Fault
	again         time.Duration
}

// Admit refuses what the schema can't know to be wrong.
func (r *Reconciler) Admit(_ context.Context, _, snapshot *snapshotv1.VirtualDiskSnapshot) error {
	if snapshot == nil {
		return nil
	}
	return r.Classes.Admit("spec.volumeSnapshotClassName", snapshot.GetSpec().GetVolumeSnapshotClassName())
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, snapshot *snapshotv1.VirtualDiskSnapshot) (reconcile.Result, error) {
	uid := snapshot.GetMetadata().GetUid()
	if resource.Terminating(snapshot) {
		return r.remove(ctx, snapshot)
	}
	o := new(observation)
	var err error
	if o.taken, err = r.Capturer.Taken(ctx, uid); err != nil {
		return reconcile.Result{}, err
	}
	if o.taken != nil {
		if o.lost, err = r.Capturer.Lost(ctx, uid); err != nil {
			return reconcile.Result{}, err
		}
		o.again = inspectEvery
		return reconcile.Result{Status: r.status(snapshot, o), After: o.again}, nil
	}
	if Parent(snapshot) != nil {
		o.begun = true // and taken with its parent, which wakes it
		return reconcile.Result{Status: r.status(snapshot, o)}, nil
	}
	err = r.take(ctx, snapshot, o)
	return reconcile.Result{Status: r.status(snapshot, o), After: o.again}, err
}

// Parent is the VM snapshot that a disk's snapshot is taken with, nil for one of
// its own.
func Parent(snapshot *snapshotv1.VirtualDiskSnapshot) *metav1.OwnerReference {
	for _, owner := range snapshot.GetMetadata().GetOwnerReferences() {
		if owner.GetController() && owner.GetKind() == KindMachineSnapshot {
			return owner
		}
	}
	return nil
}

// take takes the snapshot once its disk can be.
func (r *Reconciler) take(ctx context.Context, snapshot *snapshotv1.VirtualDiskSnapshot, o *observation) error {
	meta := snapshot.GetMetadata()
	var err error
	if o.begun, err = r.Begun(ctx, meta.GetUid()); err != nil {
		return err
	}
	if !o.begun {
		disk, waits := r.disk(snapshot)
		if o.waits = waits; waits != nil {
			return waits
		}
		o.begun, o.again = true, time.Nanosecond // told first, then done
		return r.Capturer.Begin(ctx, meta.GetUid(), []capture.Disk{{
			Namespace: meta.GetNamespace(), Name: disk.GetMetadata().GetName(), UID: disk.GetMetadata().GetUid(), ID: meta.GetUid(),
		}}, false)
	}
	rest := vmv1.GuestRest_IfPossible
	if snapshot.GetSpec().GetRequiredConsistency() {
		rest = vmv1.GuestRest_Required
	}
	err = r.Capturer.Take(ctx, meta.GetUid(), rest)
	switch {
	case err == nil:
		o.again = time.Nanosecond
		o.taken, err = r.Capturer.Taken(ctx, meta.GetUid())
	case fault.Is(err, fault.NotReady, fault.NotFound, fault.Exhausted):
		o.waits = fault.From(err)
	}
	return err
}

// disk returns the disk, or why it can't be taken now.
func (r *Reconciler) disk(snapshot *snapshotv1.VirtualDiskSnapshot) (*diskv1.VirtualDisk, *fault.Fault) {
	key := resource.Key{Namespace: snapshot.GetMetadata().GetNamespace(), Name: snapshot.GetSpec().GetVirtualDiskName()}
	disk, found := r.Objects.Disk(key)
	switch {
	case !found:
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualDisk %s does not exist.", key.Name)
	case resource.Terminating(disk):
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualDisk %s is being deleted.", key.Name)
	case disk.GetStatus().GetPhase() != diskv1.DiskPhase_Ready:
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualDisk %s is not Ready: %s.", key.Name, PhaseOf(disk))
	}
	return disk, r.guest(snapshot, disk)
}

// guest says why the VM that runs with the disk can't be taken now.
func (r *Reconciler) guest(snapshot *snapshotv1.VirtualDiskSnapshot, disk *diskv1.VirtualDisk) *fault.Fault {
	for _, holder := range disk.GetMetadata().GetHolders() {
		if !holder.GetActive() || holder.GetKind() != kindMachine {
			continue
		}
		vm, found := r.Objects.Machine(resource.Key{Namespace: holder.GetNamespace(), Name: holder.GetName()})
		if found && snapshot.GetSpec().GetRequiredConsistency() && !HasAgent(vm) {
			return fault.New(fault.NotReady, reasonInconsistent, "%s", WithoutAgent(vm))
		}
	}
	return nil
}

// HasAgent reports whether a VM's guest agent answers.
func HasAgent(vm *vmv1.VirtualMachine) bool {
	return condition.Find(vm.GetStatus().GetConditions(), agentReady).GetStatus() == metav1.ConditionStatus_True
}

// WithoutAgent says to people what a VM lacks whose file systems can't be frozen.
func WithoutAgent(vm *vmv1.VirtualMachine) string {
	return "VirtualMachine " + vm.GetMetadata().GetName() + " runs, and no guest agent answers that could freeze its file systems: " +
		"start qemu-guest-agent in it, stop it, or set spec.requiredConsistency to false."
}

// PhaseOf is a disk's phase, for people.
func PhaseOf(disk *diskv1.VirtualDisk) string {
	if phase := disk.GetStatus().GetPhase(); phase != 0 {
		return phase.String()
	}
	return diskv1.DiskPhase_Pending.String()
}

// remove takes everything away once nobody makes anything of the snapshot.
func (r *Reconciler) remove(ctx context.Context, snapshot *snapshotv1.VirtualDiskSnapshot) (reconcile.Result, error) {
	o := &observation{}
	if users := Users(snapshot); users != "" {
		o.waits = fault.New(fault.NotReady, reasonWaiting, "Waits for %s.", users)
		return reconcile.Result{Status: r.status(snapshot, o)}, nil
	}
	uid := snapshot.GetMetadata().GetUid()
	err := r.Capturer.Abandon(ctx, uid, uid)
	return reconcile.Result{Status: r.status(snapshot, o), Finalized: err == nil}, err
}

// Users names, for people, who makes something of an object now.
func Users(object resource.Object) string {
	var names []string
	for _, holder := range object.GetMetadata().GetHolders() {
		if holder.GetActive() {
			names = append(names, holder.GetKind()+" "+holder.GetName())
		}
	}
	return strings.Join(names, ", ")
}

// AdmitHolder refuses one that comes before the snapshot is there.
func (r *Reconciler) AdmitHolder(ctx context.Context, snapshot *snapshotv1.VirtualDiskSnapshot, _ *metav1.Holder) error {
	taken, err := r.Capturer.Taken(ctx, snapshot.GetMetadata().GetUid())
	if err != nil {
		return err
	}
	if taken == nil {
		return fault.New(fault.NotReady, "VirtualDiskSnapshotNotReady", "snapshot %s is not Ready: %s",
			snapshot.GetMetadata().GetName(), snapshot.GetStatus().GetPhase())
	}
	return nil
}

// Answer tells a holder where the data is.
func (r *Reconciler) Answer(ctx context.Context, snapshot *snapshotv1.VirtualDiskSnapshot, _ *metav1.Holder) (proto.Message, error) {
	uid := snapshot.GetMetadata().GetUid()
	taken, err := r.Capturer.Taken(ctx, uid)
	if err != nil || taken == nil {
		return &snapshotv1.FrozenDisk{}, err
	}
	return &snapshotv1.FrozenDisk{Layer: capture.LayerOf(uid), VirtualBytes: taken.VirtualBytes}, nil
}
