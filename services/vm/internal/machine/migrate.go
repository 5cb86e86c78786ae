package machine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/power"
)

const (
	// migrationPoll is how often a migration that goes on is looked at,
	// migrationSoon one that is about to end.
	migrationPoll = time.Second
	migrationSoon = 100 * time.Millisecond
	// quotaPoll is how often one is tried that a quota does not allow.
	quotaPoll = 10 * time.Second
)

// moves reports whether a migration comes first. One that can't be asked does not
// keep its VM from being turned off.
func moves(vm *vmv1.VirtualMachine, o *observation) bool {
	return o.record.Migration.Active() && (o.sight.State != Unresponsive || !stopping(vm, o.record))
}

// migrate does the next step of a migration. Each is written down before it is
// taken: whoever is killed, the next one goes on with it, or undoes it.
func (r *Reconciler) migrate(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid, m := vm.GetMetadata().GetUid(), o.record.Migration
	if m.Failure == nil && stopping(vm, o.record) {
		m.Failure = &power.Reason{Reason: migration.ReasonAborted, Message: "The VM is being stopped."}
	}
	sight, err := r.Migrations.Progress(ctx, uid, m.Operation)
	switch {
	case err != nil:
		return err
	case sight.Stage == migration.Moved:
		return r.arrive(ctx, vm, o, sight)
	case sight.Stage == migration.Failed:
		return r.stay(ctx, vm, o, migration.ReasonFailed, "The migration failed, and the VM stays on "+m.Source+": "+sight.Failure)
	case m.Failure != nil:
		return r.abort(ctx, vm, o)
	case m.Target == "":
		return r.schedule(ctx, vm, o)
	case sight.Stage == migration.Absent && m.Sending != nil:
		return r.stay(ctx, vm, o, migration.ReasonFailed, "The migration failed, and the VM stays on "+m.Source+": its target was lost.")
	case sight.Stage == migration.Absent:
		return r.prepareTarget(ctx, vm, o)
	case sight.Stage == migration.Prepared:
		return r.send(ctx, vm, o)
	}
	o.again = migrationPoll
	if sight.Stage == migration.Suspended {
		o.again = migrationSoon
	}
	if overdue := r.watchdog.Overdue(r.Migration, m, o.record.MemoryBytes, sight, r.Now()); overdue != nil {
		m.Failure = overdue
		if err := r.Power.Put(ctx, uid, o.record); err != nil {
			return err
		}
		return r.abort(ctx, vm, o)
	}
	return nil
}

// schedule chooses the target, once there is one and a turn.
func (r *Reconciler) schedule(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	m := o.record.Migration
	local, err := r.localDisks(ctx, vm, o)
	if err != nil {
		return err
	}
	if len(local) > 0 && !r.Migration.CopyDisks {
		return r.stay(ctx, vm, o, migration.ReasonNotShared, strings.Join(local, ", ")+" can be used on "+m.Source+" only.")
	}
	o.again = migrationPoll
	if waits, err := r.queue(ctx, vm, o); err != nil || waits {
		return err
	}
	if refusal := r.mayMove(ctx, vm, o); refusal != "" {
		o.again = quotaPoll
		return r.wait(ctx, vm, o, migration.ReasonQuota, refusal)
	}
	r.placing.Lock()
	defer r.placing.Unlock()
	if waits, err := r.queue(ctx, vm, o); err != nil || waits {
		return err
	}
	target, err := r.pickOther(ctx, vm, o, m.NodeSelector)
	switch {
	case err != nil && r.Now().Sub(m.Began) > r.Migration.PreparationTimeout:
		return r.stay(ctx, vm, o, migration.ReasonUnschedulable,
			fmt.Sprintf("No node was found within %s: %s", r.Migration.PreparationTimeout, fault.From(err).Message))
	case fault.Is(err, fault.NotReady):
		return r.wait(ctx, vm, o, migration.ReasonUnschedulable, fault.From(err).Message)
	case err != nil:
		return err
	}
	m.Target, m.Waits, m.WaitsFor = target, "", ""
	o.again = time.Nanosecond
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}

// localDisks names the disks of a VM that its node alone reaches: some may have
// come since it was started.
func (r *Reconciler) localDisks(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) ([]string, error) {
	var local []string
	for _, ref := range usedRefs(o) {
		device, err := r.Devices.Claim(ctx, ref, User(vm, o.record))
		if err != nil {
			return nil, err
		}
		if device.Node != "" {
			local = append(local, describe(ref))
		}
	}
	return local, nil
}

// usedRefs are what an instance has.
func usedRefs(o *observation) []*vmv1.BlockDeviceRef {
	return slices.Concat(o.applied.GetBlockDeviceRefs(), refsOf(o.present))
}

// wait says what a migration waits for.
func (r *Reconciler) wait(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, reason, message string) error {
	m := o.record.Migration
	if m.WaitsFor == reason && m.Waits == message {
		return nil
	}
	m.WaitsFor, m.Waits = reason, message
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}

// queue reports whether a VM waits for others to leave its node first.
func (r *Reconciler) queue(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (waits bool, err error) {
	source := o.record.Migration.Source
	records, err := r.Power.All(ctx)
	if err != nil {
		return false, err
	}
	leaving := 0
	for _, record := range records {
		if m := record.Migration; m.Active() && m.Source == source && m.Target != "" {
			leaving++
		}
	}
	if leaving < r.Migration.PerNode {
		return false, nil
	}
	return true, r.wait(ctx, vm, o, migration.ReasonPending, fmt.Sprintf("Waits for its turn: %d VMs leave %s already.", leaving, source))
}

// pickOther picks a node for a VM other than the one where it is, with those
// labels. Class NotReady where there is none.
func (r *Reconciler) pickOther(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, selector map[string]string) (string, error) {
	world, err := r.Survey.World(ctx)
	if err != nil {
		return "", err
	}
	guest, err := r.Survey.Guest(vm, o.record)
	if err != nil {
		return "", err
	}
	return world.Without(guest.UID()).Place(guest.Only(selector), nil)
}

// prepareTarget plugs the VM in at its target, and makes the process there.
func (r *Reconciler) prepareTarget(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	m := o.record.Migration
	if o.plugged == nil {
		o.again = migrationPoll // its claim is seen soon
		return nil
	}
	holder := User(vm, o.record)
	holder.TargetNode = m.Target
	var port *networkv1.Port
	var copies []migration.Copy
	err := r.claimCard(ctx, vm, o)
	if err == nil {
		port, err = r.Addresses.Claim(ctx, o.plugged, holder)
	}
	if err == nil {
		copies, err = r.copies(ctx, o, holder)
	}
	if fault.Is(err, fault.NotReady) && r.Now().Sub(m.Began) < r.Migration.PreparationTimeout {
		o.again = migrationSoon // they are being made
		return nil
	}
	if err == nil {
		err = r.Migrations.Prepare(ctx, vm.GetMetadata().GetUid(), m.Operation, port, copies)
	}
	if err != nil {
		return r.giveUp(ctx, vm, o, err)
	}
	o.again = time.Nanosecond
	return nil
}

// copies are the files that a VM's disks are copied into which its node alone
// reaches. Class NotReady while one is not made yet.
func (r *Reconciler) copies(ctx context.Context, o *observation, holder *metav1.Holder) ([]migration.Copy, error) {
	var copies []migration.Copy
	for _, ref := range usedRefs(o) {
		if !slices.Contains(o.record.Pinned, describe(ref)) {
			continue
		}
		device, err := r.Devices.Claim(ctx, ref, holder)
		if err != nil {
			return nil, err
		}
		if device.Copy.Path == "" {
			return nil, fault.New(fault.NotReady, migration.ReasonPreparing, "%s has nothing yet that it can be copied into", describe(ref))
		}
		copies = append(copies, device.Copy)
	}
	return copies, nil
}

func (r *Reconciler) send(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid, m := vm.GetMetadata().GetUid(), o.record.Migration
	if m.Sending == nil {
		now := r.Now()
		m.Sending = &now
		if err := r.Power.Put(ctx, uid, o.record); err != nil {
			return err
		}
	}
	if err := r.Migrations.Send(ctx, uid, m.Operation, r.Migration.Limits(m.Converge)); err != nil {
		return r.giveUp(ctx, vm, o, err)
	}
	o.again = migrationPoll
	return nil
}

// giveUp ends a migration that can't be begun.
func (r *Reconciler) giveUp(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, cause error) error {
	if ctx.Err() != nil {
		return cause // the process ends: the next one goes on
	}
	m := o.record.Migration
	m.Failure = &power.Reason{
		Reason:  migration.ReasonFailed,
		Message: fmt.Sprintf("The VM can't be prepared on %s, and stays on %s: %s", m.Target, m.Source, fault.From(cause).Message),
	}
	if err := r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record); err != nil {
		return err
	}
	return r.abort(ctx, vm, o)
}

// abort ends a migration for the reason that is written down, unless it is done.
func (r *Reconciler) abort(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid, m := vm.GetMetadata().GetUid(), o.record.Migration
	if err := r.Migrations.Abort(ctx, uid, m.Operation); err != nil {
		return err
	}
	sight, err := r.Migrations.Progress(ctx, uid, m.Operation)
	if err != nil {
		return err
	}
	if sight.Stage == migration.Moved {
		return r.arrive(ctx, vm, o, sight)
	}
	return r.stay(ctx, vm, o, m.Failure.Reason, m.Failure.Message)
}

// arrive writes down that the VM runs on its target.
func (r *Reconciler) arrive(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, sight migration.Sight) error {
	m := o.record.Migration
	m.Succeeded, m.Failure, m.Took, m.Downtime = true, nil, sight.Elapsed, sight.Downtime
	if len(o.record.Pinned) > 0 && m.Sending != nil {
		m.Took = r.Now().Sub(*m.Sending) // disks were copied before
	}
	o.record.Node = m.Target
	return r.conclude(ctx, vm, o)
}

// stay writes down that the VM runs where it was.
func (r *Reconciler) stay(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, reason, message string) error {
	o.record.Migration.Failure = &power.Reason{Reason: reason, Message: message}
	return r.conclude(ctx, vm, o)
}

func (r *Reconciler) conclude(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	now, uid := r.Now(), vm.GetMetadata().GetUid()
	o.record.Migration.Ended = &now
	if stopping(vm, o.record) {
		o.again = time.Nanosecond
	}
	if err := r.Power.Put(ctx, uid, o.record); err != nil {
		return err
	}
	r.watchdog.Forget(o.record.Migration.Operation)
	if err := r.replug(ctx, vm, o); err != nil {
		return err
	}
	var err error
	if o.sight, err = r.Engine.Look(ctx, uid); err != nil {
		return err
	}
	o.attached = nil
	return r.observeInstance(vm, o)
}

// replug makes the claims of a VM say the node where it is. That of the address
// comes last: while it says something else there is more to do.
func (r *Reconciler) replug(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	holder := holderIn(o.plugged, vm)
	if holder == nil || o.applied == nil || holder.GetNode() == o.record.Node && holder.GetTargetNode() == "" {
		return nil
	}
	for _, ref := range usedRefs(o) {
		if _, err := r.Devices.Claim(ctx, ref, User(vm, o.record)); err != nil {
			return err
		}
	}
	_, err := r.Addresses.Claim(ctx, o.plugged, User(vm, o.record))
	return err
}

// endMigration ends the migration of a VM that ends.
func (r *Reconciler) endMigration(o *observation) {
	if m := o.record.Migration; m.Active() {
		now := r.Now()
		m.Ended = &now
		if m.Failure == nil {
			m.Failure = &power.Reason{Reason: migration.ReasonAborted, Message: "The VM was stopped, or ended by itself."}
		}
		r.watchdog.Forget(m.Operation)
	}
}
