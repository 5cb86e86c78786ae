package machine

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/power"
)

const (
	// powerdownAgain is how often a guest is asked again to shut down: one that
	// is still booting does not hear it.
	powerdownAgain = 3 * time.Second
	// An instance that lived shorter than shortLife is started again only after
	// restartDelay, so that a guest that can't run does not spin.
	shortLife    = 30 * time.Second
	restartDelay = 5 * time.Second
	// A start that failed is repeated after retryFirst, then twice that, and so
	// on up to retryMost.
	retryFirst = time.Second
	retryMost  = time.Minute
	// lookAgain is how often an instance that does not answer is looked at.
	lookAgain = 5 * time.Second

	mebibyte = 1 << 20
)

// start places the VM, claims what it needs, and lets it run. What was claimed
// is found again by the next look, whatever happens in between.
func (r *Reconciler) start(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if wait := r.holdBack(vm, o); wait > 0 {
		o.again = wait
		return nil
	}
	if err := r.place(ctx, vm, o); err != nil {
		o.startProblem = problemOf(err)
		return err
	}
	return r.launch(ctx, vm, o)
}

// launch claims what a placed VM needs, and lets it run once all is there.
func (r *Reconciler) launch(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if err := r.reserve(ctx, vm, o); err != nil {
		return r.fail(ctx, vm, o, err)
	}
	instance, err := r.prepare(ctx, vm, o)
	switch {
	case err == nil && instance.lacksDevice() && o.record.Awaits:
		return nil // the disk service makes it now, and wakes the VM
	case err == nil && instance.lacksDevice():
		err = fault.New(fault.NotReady, "BlockDevicesNotReady", "a disk is not made yet")
	case err == nil && o.record.Awaits:
		now := r.Now()
		o.record.Awaits, o.record.Started, o.record.Provisioned = false, &now, o.provisioned
		o.record.Pinned = pinned(vm, o.wanted, instance)
		err = r.Power.Put(ctx, instance.UID, o.record)
	}
	if err == nil {
		err = r.recall(ctx, instance, o)
	}
	if err == nil {
		err = r.Engine.Start(ctx, instance)
	}
	if err != nil {
		return r.fail(ctx, vm, o, err)
	}
	if o.sight, err = r.Engine.Look(ctx, instance.UID); err != nil {
		return err
	}
	return r.observeInstance(vm, o)
}

// stands reports whether the place that was given to a VM is still the right
// one: nobody stopped or changed it since.
func (r *Reconciler) stands(vm *vmv1.VirtualMachine, o *observation) bool {
	if stopping(vm, o.record) {
		return false
	}
	changes, err := changesSince(o.record.Applied, vm.GetSpec())
	return err == nil && len(changes) == 0 && !placedAnew(o.record.Applied, vm.GetSpec())
}

// resume goes on with a VM that was placed so that its disks can be made.
func (r *Reconciler) resume(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if !o.startable() {
		return nil
	}
	return r.launch(ctx, vm, o)
}

// holdBack is how long the next start must wait: after a guest that ended early,
// or a start that failed, unless somebody changed the spec since.
func (r *Reconciler) holdBack(vm *vmv1.VirtualMachine, o *observation) time.Duration {
	failure := o.record.Failure
	if failure != nil && failure.Generation != vm.GetMetadata().GetGeneration() {
		return 0
	}
	if o.record.NotBefore == nil || !r.Now().Before(*o.record.NotBefore) {
		return 0
	}
	if failure != nil && failure.Reason == reasonNotStarted && !r.isRefused(vm) {
		return 0
	}
	if failure != nil {
		o.startProblem = &problem{failure.Reason, failure.Message}
	}
	return o.record.NotBefore.Sub(r.Now())
}

// fail undoes a start that went wrong, and puts the next one off. The pause is
// in the record and not the loop's: claims that come and go wake the VM.
func (r *Reconciler) fail(ctx context.Context, vm *vmv1.VirtualMachine, o *observation, cause error) error {
	if ctx.Err() != nil {
		return cause // the process ends: the next one begins with the record
	}
	o.startProblem = problemOf(cause)
	count := 1
	if o.record.Failure != nil {
		count += o.record.Failure.Count
	}
	o.record.Failure = &power.Failure{
		Reason: o.startProblem.reason, Message: o.startProblem.message,
		Count: count, Generation: vm.GetMetadata().GetGeneration(),
	}
	pause := min(retryFirst<<min(count-1, 10), retryMost)
	later := r.Now().Add(pause)
	o.record.NotBefore = &later
	if err := r.forget(ctx, vm, o); err != nil {
		return errors.Join(cause, err)
	}
	o.again = pause
	return cause
}

// waited is how long the VM's dependencies kept it from starting, the first
// time; later starts find them ready.
func (r *Reconciler) waited(vm *vmv1.VirtualMachine, o *observation, now time.Time) time.Duration {
	if o.record.Instance > 1 {
		return 0
	}
	return now.Sub(vm.GetMetadata().GetCreationTimestamp().AsTime())
}

// stop asks the guest to shut down, and turns it off when its time is over.
func (r *Reconciler) stop(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid, now := vm.GetMetadata().GetUid(), r.Now()
	if o.record.StopSince == nil {
		o.record.StopSince = &now
		if err := r.Power.Put(ctx, uid, o.record); err != nil {
			return err
		}
	}
	left := grace(vm, o) - now.Sub(*o.record.StopSince)
	if o.record.Force || left <= 0 {
		return r.forget(ctx, vm, o)
	}
	o.again = min(left, powerdownAgain)
	if err := r.Engine.Powerdown(ctx, uid); err != nil {
		// It is asked again, and turned off in the end.
		o.startProblem = problemOf(err)
	}
	return nil
}

// grace is how long the guest may take, as it was when the instance was started.
func grace(vm *vmv1.VirtualMachine, o *observation) time.Duration {
	spec := vm.GetSpec()
	if o.applied != nil {
		spec = o.applied
	}
	return time.Duration(spec.GetTerminationGracePeriodSeconds()) * time.Second
}

// bury clears away an instance that ended by itself, and remembers whether the
// VM is to run again: before it removes what tells how the instance ended.
func (r *Reconciler) bury(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	turnOff(vm, o, o.sight.State)
	if !asked(o.record) && o.record.Started != nil && r.Now().Sub(*o.record.Started) < shortLife {
		later := r.Now().Add(restartDelay)
		o.record.NotBefore = &later
	}
	if err := r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record); err != nil {
		return err
	}
	return r.forget(ctx, vm, o)
}

// asked reports whether somebody wanted the present instance to end.
func asked(record *power.Record) bool { return record.StopSince != nil || record.Restart != "" }

// turnOff turns a VM off whose instance ended in that state by itself, if its run
// policy says so.
func turnOff(vm *vmv1.VirtualMachine, o *observation, ended State) {
	if !asked(o.record) && !restartsAfter(vm.GetSpec().GetRunPolicy(), ended) {
		off := false
		o.record.On = &off
	}
}

// lose clears away what is left of an instance that is not there. One that never
// ran is as if it had not been started; one that did went down with its host.
func (r *Reconciler) lose(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if o.record.Ran != nil {
		turnOff(vm, o, Crashed)
	}
	return r.forget(ctx, vm, o)
}

// forget ends an instance, if anything of it is left, then its claims, then its
// record: nobody gets a disk that is still in use.
func (r *Reconciler) forget(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid := vm.GetMetadata().GetUid()
	if err := r.Engine.Kill(ctx, uid); err != nil {
		return err
	}
	if !deleted(vm) {
		if err := r.settle(ctx, vm, o); err != nil {
			return err
		}
	}
	r.endMigration(o)
	o.record.InstanceGone()
	if err := r.Power.Put(ctx, uid, o.record); err != nil {
		return err
	}
	o.sight, o.applied, o.changes, o.attached, o.present, o.plugged = Sight{State: Absent}, nil, nil, nil, nil, nil
	o.again = time.Nanosecond // now that it is gone there is more to do
	return nil
}

// tend looks after a VM that runs as it should.
func (r *Reconciler) tend(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid := vm.GetMetadata().GetUid()
	if o.sight.Moving { // of a migration that nobody remembers
		if err := r.Migrations.Abort(ctx, uid, ""); err != nil {
			return err
		}
	}
	if err := r.thaw(ctx, vm, o); err != nil {
		return err
	}
	if err := r.claimCard(ctx, vm, o); err != nil {
		return err
	}
	if err := r.replug(ctx, vm, o); err != nil {
		return err
	}
	if err := r.grow(ctx, vm, o); err != nil {
		return err
	}
	if err := r.relocate(ctx, vm, o); err != nil {
		return err
	}
	if o.sight.State == Unresponsive {
		o.again = lookAgain
		return nil
	}
	learned := r.learn(o)
	automatic := vm.GetSpec().GetDisruptions().GetRestartApprovalMode() == vmv1.RestartApprovalMode_Automatic
	if len(o.changes) > 0 && automatic {
		o.record.Restart, learned = "changes", true
		o.again = time.Nanosecond
	}
	if !learned {
		return nil
	}
	return r.Power.Put(ctx, uid, o.record)
}

// learn writes what an instance shows into its record, and reports whether that
// is anything new.
func (r *Reconciler) learn(o *observation) bool {
	learned := false
	if o.record.Ran == nil && o.sight.State == Running {
		now := r.Now()
		o.record.Ran, learned = &now, true
	}
	if o.sight.Agent != nil && o.record.AgentAfter == 0 && o.record.Started != nil {
		o.record.AgentAfter, learned = max(o.sight.Agent.Since.Sub(*o.record.Started), time.Second), true
	}
	if o.record.Failure != nil {
		o.record.Failure, learned = nil, true
	}
	if ids := o.sight.IDs(); !slices.Equal(o.record.Plugged, ids) {
		o.record.Plugged, learned = ids, true
	}
	return learned
}

// grow makes the disks of a running VM as large as their own specs want them,
// and says so by renewing its claim. Each part may be repeated.
func (r *Reconciler) grow(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if o.applied == nil || o.sight.State != Running && o.sight.State != Paused {
		return nil
	}
	for _, ref := range slices.Concat(o.applied.GetBlockDeviceRefs(), refsOf(o.present)) {
		if !r.Devices.State(ref, vm.GetMetadata().GetNamespace()).Grows {
			continue
		}
		device, err := r.Devices.Claim(ctx, ref, User(vm, o.record))
		if err != nil {
			return err
		}
		if err := r.Engine.Grow(ctx, vm.GetMetadata().GetUid(), device.ID, device.GrowTo); err != nil {
			return err
		}
		if _, err := r.Devices.Claim(ctx, ref, User(vm, o.record)); err != nil {
			return err
		}
	}
	return nil
}

// demandOf is what a VM takes of its node: the guaranteed part of its cores, and
// its memory with what running it takes besides.
func (r *Reconciler) demandOf(spec *vmv1.VirtualMachineSpec) node.Demand {
	return node.Demand{MilliCPU: milliCPUOf(spec), MemoryBytes: memoryOf(spec) + r.Overhead(spec)}
}

// milliCPUOf is the guaranteed part of a VM's cores, which is also its most.
func milliCPUOf(spec *vmv1.VirtualMachineSpec) int64 {
	return int64(spec.GetCpu().GetCores()) * int64(class.Fraction(spec.GetCpu().GetCoreFraction())) * 10
}

// memoryOf is what the guest has of memory, in whole mebibytes.
func memoryOf(spec *vmv1.VirtualMachineSpec) int64 {
	size, _ := resource.ParseQuantity(spec.GetMemory().GetSize()) // judged at admission
	return (size.Value() + mebibyte - 1) / mebibyte * mebibyte
}
