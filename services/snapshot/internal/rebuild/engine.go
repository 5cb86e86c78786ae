// Package rebuild makes VMs again from their snapshots, under the same names or
// others: what stands in the way is found before anything is made, and then all of
// it is made or nothing. A VM that is there can be put back in place: from its
// first disk on that only goes forward.
//
// It owns one etcd key a job. It must not know how a snapshot is taken, nor which
// kinds of objects ask for jobs.
package rebuild

import (
	"context"
	"strings"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/record"
	"orlop.dev/services/snapshot/internal/recipe"
)

// lookAgain is when to look again whether a VM is off, or what was made is gone.
const lookAgain = time.Second

// Why a job waits, or failed.
const (
	ReasonSnapshotNotFound = "VirtualMachineSnapshotNotFound"
	ReasonSnapshotNotReady = "VirtualMachineSnapshotNotReady"
	ReasonConflict         = "VirtualMachineRestoreConflict"
	ReasonFailed           = "VirtualMachineRestoreFailed"
	ReasonNotStopped       = "VirtualMachineIsNotStopped"
)

// Objects are what may stand in the way, and Maker what makes.
type Objects interface {
	Disk(key resource.Key) (*diskv1.VirtualDisk, bool)
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
	Attachment(key resource.Key) (*vmv1.VirtualMachineBlockDeviceAttachment, bool)
	Attachments(machine resource.Key) []*vmv1.VirtualMachineBlockDeviceAttachment
	AddressesOf(namespace string) []*networkv1.VirtualMachineIPAddress
	MACsOf(namespace string) []*networkv1.VirtualMachineMACAddress
	ImageExists(ctx context.Context, kind vmv1.BlockDeviceKind_Value, key resource.Key) (bool, error)
	Secret(ctx context.Context, key resource.Key) (*secretv1.Secret, error)
}

// Maker makes and takes back objects of other services, and changes those that are
// there.
type Maker interface {
	Create(ctx context.Context, object resource.Object) error
	Find(ctx context.Context, kind string, key resource.Key) (resource.Object, error)
	Delete(ctx context.Context, object resource.Object) error
	MakeSecret(ctx context.Context, key resource.Key, secret *secretv1.Secret) error
	DeleteSecret(ctx context.Context, key resource.Key, mark string) error

	UpdateMachine(ctx context.Context, vm *vmv1.VirtualMachine, dry bool) error
	Revert(ctx context.Context, disk *diskv1.VirtualDisk, layer string) error
	TurnOff(ctx context.Context, vm *vmv1.VirtualMachine, holder *metav1.Holder) (off bool, err error)
	LetRun(ctx context.Context, machine, holder, memory string) error
}

// Snapshots holds snapshots while something is made from them.
type Snapshots interface {
	Snapshot(key resource.Key) (*snapshotv1.VirtualMachineSnapshot, bool)
	Hold(ctx context.Context, key resource.Key, holder *metav1.Holder) error
	LetGo(ctx context.Context, key resource.Key, uid string) error
}

// Engine does jobs.
type Engine struct {
	Objects   Objects
	Maker     Maker
	Snapshots Snapshots
	Recipes   *recipe.Store
	Records   *record.Store[Record, *Record]
}

// Step does the next step of a job.
func (e *Engine) Step(ctx context.Context, job *Job) (*Progress, error) {
	o, err := e.progress(ctx, job)
	if err != nil {
		return o, err
	}
	return o, e.step(ctx, job, o)
}

// Try says what a job would do, once, and does nothing.
func (e *Engine) Try(ctx context.Context, job *Job) (*Progress, error) {
	o, err := e.progress(ctx, job)
	if err != nil || o.Record.Tried {
		return o, err
	}
	kept, err := e.recipe(ctx, job, o)
	if err != nil {
		return o, err
	}
	p, err := newPlan(kept, job)
	if err != nil {
		return o, err
	}
	if o.Record.Items, err = e.judge(ctx, job, p); err != nil {
		return o, err
	}
	if problems := problemsOf(o.Record.Items); len(problems) > 0 {
		o.Record.Failure, o.Record.Undone = conflict(problems), true
	}
	o.Record.Tried = true
	if err := e.Records.Put(ctx, job.Owner.GetUid(), o.Record); err != nil {
		return o, err
	}
	return o, e.finish(ctx, job, o)
}

// Remove forgets a job, and takes back what it made if it is not done; one that
// puts disks back goes on until it is. It reports whether nothing is left to do.
func (e *Engine) Remove(ctx context.Context, job *Job) (bool, *Progress, error) {
	o, err := e.progress(ctx, job)
	if err != nil {
		return false, o, err
	}
	r := o.Record
	switch {
	case r.Checked && !r.Made && r.Swapping:
		if err := e.step(ctx, job, o); !gone(err) && (err != nil || !o.Record.Made) {
			return false, o, err
		}
	case r.Checked && !r.Made && r.Failure == nil:
		return false, o, e.fail(ctx, job, o, recipe.Failure{Reason: ReasonFailed, Message: "It was deleted before it was done."})
	case r.Failure != nil && !r.Undone:
		return false, o, e.undo(ctx, job, o)
	}
	if err := e.finish(ctx, job, o); err != nil {
		return false, o, err
	}
	return true, o, e.Records.Delete(ctx, job.Owner.GetUid())
}

// Awaits says, for people, what a job that is done still waits for: data of its
// disks. Empty where it is all there, or waits for the VM to be started.
func (e *Engine) Awaits(job *Job, o *Progress) string {
	for _, item := range o.Record.Items {
		if item.Kind != kindDisk {
			continue
		}
		disk, _ := e.Objects.Disk(resource.Key{Namespace: job.Owner.GetNamespace(), Name: item.Name})
		switch disk.GetStatus().GetPhase() {
		case diskv1.DiskPhase_Ready, diskv1.DiskPhase_WaitForFirstConsumer, diskv1.DiskPhase_Resizing:
			continue
		}
		return describe(item.Kind, item.Name) + " is not Ready yet."
	}
	return ""
}

// gone reports whether an error says that it never will be done.
func gone(err error) bool {
	return fault.Is(err, fault.Invalid, fault.Denied, fault.Exists, fault.NotFound)
}

func (e *Engine) progress(ctx context.Context, job *Job) (*Progress, error) {
	kept, err := e.Records.Get(ctx, job.Owner.GetUid())
	return &Progress{Record: kept}, err
}

func (e *Engine) step(ctx context.Context, job *Job, o *Progress) error {
	switch {
	case o.Record.Made:
		return e.finish(ctx, job, o)
	case o.Record.Failure != nil:
		return e.undo(ctx, job, o)
	}
	kept, err := e.recipe(ctx, job, o)
	if err != nil {
		return err
	}
	p, err := newPlan(kept, job)
	if err != nil {
		return err
	}
	if !o.Record.Checked {
		if err := e.check(ctx, job, o, p); err != nil || !o.Record.Checked {
			return err
		}
	} else if _, err := e.judgeImages(ctx, job, p); err != nil {
		return err
	}
	return e.make(ctx, job, o, p)
}

// check looks for what stands in the way, and writes down what it found.
func (e *Engine) check(ctx context.Context, job *Job, o *Progress, p *plan) error {
	var err error
	if o.Record.Items, err = e.judge(ctx, job, p); err != nil {
		return err
	}
	if problems := problemsOf(o.Record.Items); len(problems) > 0 {
		return e.fail(ctx, job, o, *conflict(problems))
	}
	o.Record.Checked = true
	return e.Records.Put(ctx, job.Owner.GetUid(), o.Record)
}

func problemsOf(items []Item) []string {
	var problems []string
	for _, item := range items {
		if item.Problem != "" {
			problems = append(problems, item.Problem)
		}
	}
	return problems
}

func conflict(problems []string) *recipe.Failure {
	return &recipe.Failure{Reason: ReasonConflict, Message: "Nothing was made: " + strings.Join(problems, "; ") + "."}
}

// recipe returns what is to be made, held by the owner.
func (e *Engine) recipe(ctx context.Context, job *Job, o *Progress) (*recipe.Recipe, error) {
	key := job.snapshotKey()
	snapshot, found := e.Snapshots.Snapshot(key)
	switch phase := snapshot.GetStatus().GetPhase(); {
	case !found:
		o.Waits = fault.New(fault.NotReady, ReasonSnapshotNotFound, "VirtualMachineSnapshot %s does not exist.", key.Name)
	case phase != snapshotv1.SnapshotPhase_Ready:
		o.Waits = fault.New(fault.NotReady, ReasonSnapshotNotReady, "VirtualMachineSnapshot %s is not Ready: %s.", key.Name, max(phase, snapshotv1.SnapshotPhase_Pending))
	}
	if o.Waits != nil {
		return nil, o.Waits
	}
	if err := e.Snapshots.Hold(ctx, key, job.Owner); err != nil {
		o.Waits = fault.From(err)
		return nil, err
	}
	kept, err := e.Recipes.Get(ctx, snapshot.GetMetadata().GetUid())
	if err == nil && !kept.Complete {
		o.Waits = fault.New(fault.NotReady, ReasonSnapshotNotReady, "VirtualMachineSnapshot %s is not complete.", key.Name)
		return nil, o.Waits
	}
	return kept, err
}

// finish lets go of what the job held. Idempotent.
func (e *Engine) finish(ctx context.Context, job *Job, o *Progress) error {
	if o.Record.Machine != "" {
		if err := e.Maker.LetRun(ctx, o.Record.Machine, job.Owner.GetUid(), o.Record.Memory); err != nil {
			return err
		}
	}
	return e.Snapshots.LetGo(ctx, job.snapshotKey(), job.Owner.GetUid())
}
