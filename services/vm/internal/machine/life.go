package machine

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/api/resource"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
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

	mebibyte = 1 << 20
)

// start places the VM, claims what it needs, and lets it run. What was claimed
// is found again by the next look, whatever happens in between.
func (r *Reconciler) start(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if p := placementProblem(vm.GetSpec()); p != nil {
		o.startProblem = p
		return nil
	}
	if wait := r.holdBack(o.record); wait > 0 {
		o.again = wait
		return nil
	}
	if err := r.place(ctx, vm, o); err != nil {
		o.startProblem = problemOf(err)
		return err
	}
	instance, err := r.prepare(ctx, vm, o)
	if err == nil {
		err = r.Engine.Start(ctx, instance)
	}
	if err != nil {
		o.startProblem = problemOf(err)
		return err
	}
	o.sight, err = r.Engine.Look(ctx, instance.UID)
	return err
}

func (r *Reconciler) holdBack(record *power.Record) time.Duration {
	if record.NotBefore == nil {
		return 0
	}
	return record.NotBefore.Sub(r.Now())
}

// place chooses a node and writes down all that the instance is to be.
func (r *Reconciler) place(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	applied, err := protojson.Marshal(vm.GetSpec())
	if err != nil {
		return err
	}
	demand := demandOf(vm.GetSpec())
	r.placing.Lock()
	defer r.placing.Unlock()
	used, err := r.used(ctx)
	if err != nil {
		return err
	}
	nodes, err := class.Nodes(o.class, r.Nodes)
	if err != nil {
		return err
	}
	name, err := node.Pick(nodes, vm.GetSpec(), demand, used)
	if err != nil {
		return err
	}
	now := r.Now()
	o.record.Node, o.record.Applied, o.record.Started = name, json.RawMessage(applied), &now
	o.record.MilliCPU, o.record.MemoryBytes = demand.MilliCPU, demand.MemoryBytes
	o.record.Instance++
	o.record.NotBefore, o.record.Waited = nil, r.waited(vm, o, now)
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}

func (r *Reconciler) used(ctx context.Context) (map[string]node.Demand, error) {
	records, err := r.Power.All(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]node.Demand{}
	for _, record := range records {
		if record.Node != "" {
			sum := used[record.Node]
			used[record.Node] = node.Demand{
				MilliCPU: sum.MilliCPU + record.MilliCPU, MemoryBytes: sum.MemoryBytes + record.MemoryBytes,
			}
		}
	}
	return used, nil
}

// waited is how long the VM's dependencies kept it from starting, the first
// time; later starts find them ready.
func (r *Reconciler) waited(vm *vmv1.VirtualMachine, o *observation, now time.Time) time.Duration {
	if o.record.Instance > 1 {
		return 0
	}
	return now.Sub(vm.GetMetadata().GetCreationTimestamp().AsTime())
}

// prepare claims disks, images and the address for a running VM.
func (r *Reconciler) prepare(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) (Instance, error) {
	spec, meta := vm.GetSpec(), vm.GetMetadata()
	holder := holderOf(vm, true)
	model, features := class.CPUModel(o.class)
	instance := Instance{
		UID: meta.GetUid(), Namespace: meta.GetNamespace(), Name: meta.GetName(),
		CPUModel: model, CPUFeatures: features, Topology: topology(spec.GetCpu().GetCores()),
		MemoryBytes:     demandOf(spec).MemoryBytes,
		Paravirtualized: spec.GetEnableParavirtualization(),
	}
	for _, ref := range spec.GetBlockDeviceRefs() {
		device, err := r.Devices.Claim(ctx, ref, holder)
		if err != nil {
			return instance, err
		}
		instance.Devices = append(instance.Devices, device)
	}
	var err error
	if instance.Port, err = r.Addresses.Claim(ctx, o.address, holder); err != nil {
		return instance, err
	}
	if spec.GetProvisioning().GetType() == vmv1.ProvisioningType_UserData {
		instance.UserData = []byte(spec.GetProvisioning().GetUserData())
	}
	return instance, nil
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
	grace := time.Duration(vm.GetSpec().GetTerminationGracePeriodSeconds()) * time.Second
	left := grace - now.Sub(*o.record.StopSince)
	if o.record.Force || left <= 0 {
		if err := r.Engine.Kill(ctx, uid); err != nil {
			return err
		}
		o.sight.State = Absent
		o.again = time.Nanosecond
		return nil
	}
	o.again = min(left, powerdownAgain)
	return r.Engine.Powerdown(ctx, uid)
}

// bury clears away an instance that ended by itself, and remembers whether the
// VM is to run again: before it removes what tells how the instance ended.
func (r *Reconciler) bury(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid := vm.GetMetadata().GetUid()
	asked := o.record.StopSince != nil || o.record.Restart != ""
	if !asked && !restartsAfter(vm.GetSpec().GetRunPolicy(), o.sight.State) {
		off := false
		o.record.On = &off
	}
	if !asked && o.record.Started != nil && r.Now().Sub(*o.record.Started) < shortLife {
		later := r.Now().Add(restartDelay)
		o.record.NotBefore = &later
	}
	if err := r.Power.Put(ctx, uid, o.record); err != nil {
		return err
	}
	if err := r.Engine.Kill(ctx, uid); err != nil {
		return err
	}
	o.sight.State = Absent
	return r.forget(ctx, vm, o)
}

// forget ends the record of an instance that is gone.
func (r *Reconciler) forget(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	if err := r.settle(ctx, vm, o); err != nil {
		return err
	}
	o.record.InstanceGone()
	o.again = time.Nanosecond
	return r.Power.Put(ctx, vm.GetMetadata().GetUid(), o.record)
}

// tend looks after a VM that runs as it should.
func (r *Reconciler) tend(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	uid := vm.GetMetadata().GetUid()
	automatic := vm.GetSpec().GetDisruptions().GetRestartApprovalMode() == vmv1.RestartApprovalMode_Automatic
	switch {
	case len(o.changes) > 0 && automatic:
		o.record.Restart = "changes"
		o.again = time.Nanosecond
		return r.Power.Put(ctx, uid, o.record)
	case o.sight.Agent != nil && o.record.AgentAfter == 0 && o.record.Started != nil:
		o.record.AgentAfter = max(o.sight.Agent.Since.Sub(*o.record.Started), time.Second)
		return r.Power.Put(ctx, uid, o.record)
	}
	return nil
}

// settle makes the claims of a VM without an instance right: it refers to the
// disks and the address of its spec, and uses nothing.
func (r *Reconciler) settle(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	refers := holderOf(vm, false)
	wanted := map[string]bool{}
	for _, ref := range vm.GetSpec().GetBlockDeviceRefs() {
		wanted[describe(ref)] = ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk
	}
	held := map[string]bool{}
	for _, device := range r.Devices.Held(refers) {
		name := describe(device.Ref)
		held[name] = !device.Active
		if wanted[name] {
			continue
		}
		if err := r.Devices.Release(ctx, device.Ref, refers); err != nil {
			return err
		}
	}
	for i, ref := range vm.GetSpec().GetBlockDeviceRefs() {
		if !wanted[describe(ref)] || held[describe(ref)] || !o.devices[i].Found {
			continue
		}
		if _, err := r.Devices.Claim(ctx, ref, refers); err != nil && !fault.Is(err, fault.NotReady, fault.NotFound) {
			return err
		}
	}
	return r.settleAddress(ctx, o, refers)
}

func (r *Reconciler) settleAddress(ctx context.Context, o *observation, refers *metav1.Holder) error {
	if o.address == nil || o.addressProblem != nil {
		return nil
	}
	for _, holder := range o.address.GetMetadata().GetHolders() {
		if holder.GetUid() == refers.GetUid() && !holder.GetActive() {
			return nil
		}
	}
	_, err := r.Addresses.Claim(ctx, o.address, refers)
	return err
}

// leave lets go of everything that a deleted VM had.
func (r *Reconciler) leave(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) error {
	holder := holderOf(vm, false)
	for _, device := range r.Devices.Held(holder) {
		if err := r.Devices.Release(ctx, device.Ref, holder); err != nil {
			return err
		}
	}
	if o.address != nil && holds(o.address, holder) {
		if err := r.Addresses.Release(ctx, o.address, holder); err != nil {
			return err
		}
	}
	uid := vm.GetMetadata().GetUid()
	if err := r.Engine.Kill(ctx, uid); err != nil {
		return err
	}
	return r.Power.Delete(ctx, uid)
}

func holds(address *networkv1.VirtualMachineIPAddress, holder *metav1.Holder) bool {
	for _, h := range address.GetMetadata().GetHolders() {
		if h.GetUid() == holder.GetUid() {
			return true
		}
	}
	return false
}

// placementProblem refuses rules that nothing honours yet: to ignore them would
// put the VM where it must not be.
func placementProblem(spec *vmv1.VirtualMachineSpec) *problem {
	affinity := spec.GetAffinity()
	for field, given := range map[string]bool{
		"virtualMachineAndPodAffinity":     affinity.GetVirtualMachineAndPodAffinity() != nil,
		"virtualMachineAndPodAntiAffinity": affinity.GetVirtualMachineAndPodAntiAffinity() != nil,
	} {
		if given {
			return &problem{reasonNotSupported, "spec.affinity." + field + " is not supported yet: remove it to start the VM."}
		}
	}
	return nil
}

// demandOf is what a VM takes of its node: the guaranteed part of its cores, and
// its memory in whole mebibytes.
func demandOf(spec *vmv1.VirtualMachineSpec) node.Demand {
	size, _ := resource.ParseQuantity(spec.GetMemory().GetSize()) // judged at admission
	cores, fraction := int64(spec.GetCpu().GetCores()), int64(class.Fraction(spec.GetCpu().GetCoreFraction()))
	return node.Demand{
		MilliCPU:    cores * fraction * 10,
		MemoryBytes: (size.Value() + mebibyte - 1) / mebibyte * mebibyte,
	}
}
