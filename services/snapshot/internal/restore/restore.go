// Package restore makes VMs again from their snapshots: what stands in the way is
// found before anything is made, and then all of it is made or nothing.
//
// It must not know how a snapshot is taken.
package restore

import (
	"context"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/record"
	"orlop.dev/services/snapshot/internal/recipe"
)

// undoAgain is when to look again whether what was made is gone.
const undoAgain = time.Second

// Record is how far a restore is.
type Record struct {
	record.Version

	// Checked is a restore that nothing stood in the way of: it makes things.
	Checked bool `json:"checked,omitempty"`
	// Made is one that has made all, Failure one that has made nothing, or will have
	// when it has taken back what it made.
	Made    bool            `json:"made,omitempty"`
	Undone  bool            `json:"undone,omitempty"`
	Failure *recipe.Failure `json:"failure,omitempty"`
}

// NewStore returns the records of a service's prefix, by the UIDs of restores.
func NewStore(client *clientv3.Client, prefix string) *record.Store[Record, *Record] {
	return record.New[Record](client, prefix+"/restore/")
}

// Objects are what may stand in the way, and Maker what makes.
type Objects interface {
	Disk(key resource.Key) (*diskv1.VirtualDisk, bool)
	Machine(key resource.Key) (*vmv1.VirtualMachine, bool)
	AttachmentExists(key resource.Key) (resource.Object, bool)
	AddressesOf(namespace string) []*networkv1.VirtualMachineIPAddress
	MACsOf(namespace string) []*networkv1.VirtualMachineMACAddress
	Secret(ctx context.Context, key resource.Key) (*secretv1.Secret, error)
}

// Maker makes and takes back objects of other services.
type Maker interface {
	Create(ctx context.Context, object resource.Object) error
	Find(ctx context.Context, kind string, key resource.Key) (resource.Object, error)
	Delete(ctx context.Context, object resource.Object) error
	MakeSecret(ctx context.Context, key resource.Key, secret *secretv1.Secret) error
	DeleteSecret(ctx context.Context, key resource.Key, mark string) error
}

// Snapshots holds snapshots while something is made from them.
type Snapshots interface {
	Snapshot(key resource.Key) (*snapshotv1.VirtualMachineSnapshot, bool)
	Hold(ctx context.Context, key resource.Key, holder *metav1.Holder) error
	LetGo(ctx context.Context, key resource.Key, uid string) error
}

// Reconciler restores VMs.
type Reconciler struct {
	Objects   Objects
	Maker     Maker
	Snapshots Snapshots
	Recipes   *recipe.Store
	Records   *record.Store[Record, *Record]
	Now       func() time.Time
}

// observation is what one look found, and all that a status is made from.
type observation struct {
	record *Record
	waits  *fault.Fault
	again  time.Duration
}

// Admit refuses what the schema can't know to be wrong.
func (r *Reconciler) Admit(_ context.Context, _, restore *snapshotv1.VirtualMachineRestore) error {
	if restore.GetSpec().GetRestoreMode() == snapshotv1.RestoreMode_Forced {
		return fault.Refuse("spec.restoreMode", "FieldValueNotSupported",
			"Forced is not supported yet: delete the VM and its disks, then restore with Safe")
	}
	return nil
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, restore *snapshotv1.VirtualMachineRestore) (reconcile.Result, error) {
	o := new(observation)
	var err error
	if o.record, err = r.Records.Get(ctx, restore.GetMetadata().GetUid()); err != nil {
		return reconcile.Result{}, err
	}
	if resource.Terminating(restore) {
		gone, err := r.remove(ctx, restore, o)
		return reconcile.Result{Status: r.status(restore, o), Finalized: gone && err == nil, After: o.again}, err
	}
	err = r.step(ctx, restore, o)
	return reconcile.Result{Status: r.status(restore, o), After: o.again}, err
}

func (r *Reconciler) step(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation) error {
	switch {
	case o.record.Made:
		return r.letGo(ctx, restore)
	case o.record.Failure != nil:
		return r.undo(ctx, restore, o)
	}
	kept, err := r.recipe(ctx, restore, o)
	if err != nil {
		return err
	}
	p, err := newPlan(kept, restore.GetMetadata().GetNamespace(), restore.GetMetadata().GetUid(), replacementsOf(restore))
	if err != nil {
		return err
	}
	if !o.record.Checked {
		problems, err := r.conflicts(ctx, p)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			return r.fail(ctx, restore, o, recipe.Failure{Reason: reasonConflict, Message: "Nothing was made: " + strings.Join(problems, "; ") + "."})
		}
		o.record.Checked = true
		if err := r.Records.Put(ctx, restore.GetMetadata().GetUid(), o.record); err != nil {
			return err
		}
	}
	return r.make(ctx, restore, o, p)
}

func replacementsOf(restore *snapshotv1.VirtualMachineRestore) []Replacement {
	var all []Replacement
	for _, one := range restore.GetSpec().GetNameReplacements() {
		all = append(all, Replacement{Kind: one.GetFrom().GetKind(), Name: one.GetFrom().GetName(), To: one.GetTo()})
	}
	return all
}

// recipe returns what is to be made, held by the restore.
func (r *Reconciler) recipe(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation) (*recipe.Recipe, error) {
	key := snapshotOf(restore)
	snapshot, found := r.Snapshots.Snapshot(key)
	switch {
	case !found:
		o.waits = fault.New(fault.NotReady, reasonSnapshotNotFound, "VirtualMachineSnapshot %s does not exist.", key.Name)
	case snapshot.GetStatus().GetPhase() != snapshotv1.SnapshotPhase_Ready:
		o.waits = fault.New(fault.NotReady, reasonSnapshotNotReady, "VirtualMachineSnapshot %s is not Ready: %s.",
			key.Name, phaseOf(snapshot))
	}
	if o.waits != nil {
		return nil, o.waits
	}
	if err := r.Snapshots.Hold(ctx, key, holderOf(restore)); err != nil {
		o.waits = fault.From(err)
		return nil, err
	}
	kept, err := r.Recipes.Get(ctx, snapshot.GetMetadata().GetUid())
	if err == nil && !kept.Complete {
		o.waits = fault.New(fault.NotReady, reasonSnapshotNotReady, "VirtualMachineSnapshot %s is not complete.", key.Name)
		return nil, o.waits
	}
	return kept, err
}

// make makes what is not made yet. A restore that was cut short finds its mark on
// what it has made.
func (r *Reconciler) make(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation, p *plan) error {
	namespace, uid := restore.GetMetadata().GetNamespace(), restore.GetMetadata().GetUid()
	if p.secret != nil {
		err := r.Maker.MakeSecret(ctx, resource.Key{Namespace: namespace, Name: p.secret.Name}, secretOf(p.secret, uid))
		if err != nil && !fault.Is(err, fault.Exists) { // the same content was looked for before
			return r.stumble(ctx, restore, o, err)
		}
	}
	for _, object := range p.objects() {
		err := r.Maker.Create(ctx, object)
		if fault.Is(err, fault.Exists) {
			err = r.own(ctx, object, uid)
		}
		if err != nil {
			return r.stumble(ctx, restore, o, err)
		}
	}
	o.record.Made = true
	if err := r.Records.Put(ctx, uid, o.record); err != nil {
		return err
	}
	return r.letGo(ctx, restore)
}

// objects are in the order in which they are made: the VM when all that it needs
// is there.
func (p *plan) objects() []resource.Object {
	var all []resource.Object
	if p.address != nil {
		all = append(all, p.address)
	}
	if p.mac != nil {
		all = append(all, p.mac)
	}
	for _, disk := range p.disks {
		all = append(all, disk)
	}
	all = append(all, p.machine)
	return append(all, p.attachments...)
}

// own returns a fault if an object that is there was not made by this restore.
// An address that was looked at before may be another's: it is used.
func (r *Reconciler) own(ctx context.Context, object resource.Object, uid string) error {
	if kind := object.GetKind(); kind == kindAddress || kind == kindMAC {
		return nil
	}
	found, err := r.Maker.Find(ctx, object.GetKind(), resource.KeyOf(object))
	if err != nil {
		return err
	}
	if found.GetMetadata().GetAnnotations()[markAnnotation] != uid {
		return fault.New(fault.Exists, reasonConflict, "%s was made by somebody else in between",
			describe(object.GetKind(), object.GetMetadata().GetName()))
	}
	return nil
}

// stumble takes back what was made after an error that doesn't pass.
func (r *Reconciler) stumble(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation, cause error) error {
	if !fault.Is(cause, fault.Invalid, fault.Denied, fault.Exists, fault.NotFound) {
		return cause
	}
	reason := reasonFailed
	if fault.Is(cause, fault.Exists) {
		reason = reasonConflict
	}
	return r.fail(ctx, restore, o, recipe.Failure{Reason: reason, Message: "Nothing is left of the restore: " + fault.From(cause).Message})
}

func (r *Reconciler) fail(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation, failure recipe.Failure) error {
	o.record.Failure, o.record.Undone = &failure, !o.record.Checked
	if err := r.Records.Put(ctx, restore.GetMetadata().GetUid(), o.record); err != nil {
		return err
	}
	return r.undo(ctx, restore, o)
}

// undo takes back what was made, the last first.
func (r *Reconciler) undo(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation) error {
	if o.record.Undone {
		return r.letGo(ctx, restore)
	}
	namespace, uid := restore.GetMetadata().GetNamespace(), restore.GetMetadata().GetUid()
	snapshot, found := r.Snapshots.Snapshot(snapshotOf(restore))
	if found {
		kept, err := r.Recipes.Get(ctx, snapshot.GetMetadata().GetUid())
		if err != nil {
			return err
		}
		left, err := r.takeBack(ctx, kept, namespace, uid, replacementsOf(restore))
		if err != nil {
			return err
		}
		if left {
			o.again = undoAgain
			return nil
		}
	}
	o.record.Undone = true
	if err := r.Records.Put(ctx, uid, o.record); err != nil {
		return err
	}
	return r.letGo(ctx, restore)
}

// takeBack deletes what has the mark, and reports whether something is left.
func (r *Reconciler) takeBack(ctx context.Context, kept *recipe.Recipe, namespace, mark string, replacements []Replacement) (bool, error) {
	p, err := newPlan(kept, namespace, mark, replacements)
	if err != nil {
		return false, err
	}
	left := false
	objects := p.objects()
	for i := len(objects) - 1; i >= 0; i-- {
		found, err := r.Maker.Find(ctx, objects[i].GetKind(), resource.KeyOf(objects[i]))
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return true, err
		}
		if found.GetMetadata().GetAnnotations()[markAnnotation] != mark {
			continue
		}
		left = true
		if err := r.Maker.Delete(ctx, found); err != nil {
			return true, err
		}
	}
	if p.secret != nil {
		return left, r.Maker.DeleteSecret(ctx, resource.Key{Namespace: namespace, Name: p.secret.Name}, mark)
	}
	return left, nil
}

// remove takes back what a restore made that was not done, and reports whether
// nothing is left of it.
func (r *Reconciler) remove(ctx context.Context, restore *snapshotv1.VirtualMachineRestore, o *observation) (bool, error) {
	if o.record.Checked && !o.record.Made && o.record.Failure == nil {
		return false, r.fail(ctx, restore, o, recipe.Failure{Reason: reasonFailed, Message: "The restore was deleted before it was done."})
	}
	if o.record.Failure != nil && !o.record.Undone {
		return false, r.undo(ctx, restore, o)
	}
	if err := r.letGo(ctx, restore); err != nil {
		return false, err
	}
	return true, r.Records.Delete(ctx, restore.GetMetadata().GetUid())
}

func (r *Reconciler) letGo(ctx context.Context, restore *snapshotv1.VirtualMachineRestore) error {
	return r.Snapshots.LetGo(ctx, snapshotOf(restore), restore.GetMetadata().GetUid())
}

func snapshotOf(restore *snapshotv1.VirtualMachineRestore) resource.Key {
	return resource.Key{Namespace: restore.GetMetadata().GetNamespace(), Name: restore.GetSpec().GetVirtualMachineSnapshotName()}
}

func holderOf(restore *snapshotv1.VirtualMachineRestore) *metav1.Holder {
	meta := restore.GetMetadata()
	return &metav1.Holder{
		Kind: "VirtualMachineRestore", Namespace: meta.GetNamespace(), Name: meta.GetName(), Uid: meta.GetUid(), Active: true,
	}
}

func phaseOf(snapshot *snapshotv1.VirtualMachineSnapshot) string {
	if phase := snapshot.GetStatus().GetPhase(); phase != 0 {
		return phase.String()
	}
	return snapshotv1.SnapshotPhase_Pending.String()
}
