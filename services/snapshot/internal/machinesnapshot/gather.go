package machinesnapshot

import (
	"cmp"
	"context"
	"slices"
	"strings"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/disksnapshot"
	"orlop.dev/services/snapshot/internal/recipe"
)

// machine returns the VM, or what it must wait for.
func (r *Reconciler) machine(snapshot *snapshotv1.VirtualMachineSnapshot) (*vmv1.VirtualMachine, *fault.Fault) {
	key := resource.Key{Namespace: snapshot.GetMetadata().GetNamespace(), Name: snapshot.GetSpec().GetVirtualMachineName()}
	vm, found := r.Objects.Machine(key)
	phase := vm.GetStatus().GetPhase()
	switch {
	case !found:
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualMachine %s does not exist.", key.Name)
	case resource.Terminating(vm):
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualMachine %s is being deleted.", key.Name)
	case phase != vmv1.VirtualMachinePhase_Running && phase != vmv1.VirtualMachinePhase_Stopped && phase != vmv1.VirtualMachinePhase_Pending:
		return nil, fault.New(fault.NotReady, reasonWaiting, "VirtualMachine %s is neither Running nor Stopped: %s.", key.Name, phase)
	case phase == vmv1.VirtualMachinePhase_Running && snapshot.GetSpec().GetRequiredConsistency() && !disksnapshot.HasAgent(vm):
		return nil, fault.New(fault.NotReady, reasonInconsistent, "%s", disksnapshot.WithoutAgent(vm))
	}
	return vm, nil
}

// dependencies are the conditions of a VM that say whether what it needs is
// there.
var dependencies = []string{
	"VirtualMachineClassReady", "BlockDevicesReady", "VirtualMachineIPAddressReady", "VirtualMachineMACAddressReady", "ProvisioningReady",
}

// refuse says which of the platform's preconditions a VM does not meet (guide,
// "Creating snapshots of virtual machines").
func (r *Reconciler) refuse(vm *vmv1.VirtualMachine) *fault.Fault {
	name := vm.GetMetadata().GetName()
	for _, ref := range disksOf(vm) {
		disk, found := r.Objects.Disk(resource.Key{Namespace: vm.GetMetadata().GetNamespace(), Name: ref})
		switch {
		case !found:
			return fault.New(fault.NotReady, reasonBlockDevices, "VirtualDisk %s of VirtualMachine %s does not exist.", ref, name)
		case disk.GetStatus().GetPhase() == diskv1.DiskPhase_Resizing:
			return fault.New(fault.NotReady, reasonBlockDevices, "VirtualDisk %s is being resized: take the snapshot when it is Ready.", ref)
		case disk.GetStatus().GetPhase() != diskv1.DiskPhase_Ready:
			return fault.New(fault.NotReady, reasonBlockDevices, "VirtualDisk %s is not Ready: %s.", ref, disksnapshot.PhaseOf(disk))
		}
	}
	if len(vm.GetStatus().GetRestartAwaitingChanges()) > 0 {
		return fault.New(fault.NotReady, reasonRestart,
			"Changes of VirtualMachine %s wait for a restart: restart it, or take them back, and take another snapshot.", name)
	}
	for _, dependency := range dependencies {
		c := condition.Find(vm.GetStatus().GetConditions(), dependency)
		if c.GetStatus() == metav1.ConditionStatus_False {
			return fault.New(fault.NotReady, reasonMachineNotReady, "Not all that VirtualMachine %s depends on is ready: %s: %s", name, dependency, c.GetMessage())
		}
	}
	return nil
}

// disksOf are the names of the disks that a VM has, or is to have.
func disksOf(vm *vmv1.VirtualMachine) []string {
	var names []string
	add := func(kind vmv1.BlockDeviceKind_Value, name string) {
		if kind == vmv1.BlockDeviceKind_VirtualDisk && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, ref := range vm.GetSpec().GetBlockDeviceRefs() {
		add(ref.GetKind(), ref.GetName())
	}
	for _, ref := range vm.GetStatus().GetBlockDeviceRefs() {
		add(ref.GetKind(), ref.GetName())
	}
	return names
}

// gather writes into a recipe what the VM is made of.
func (r *Reconciler) gather(ctx context.Context, snapshot *snapshotv1.VirtualMachineSnapshot, vm *vmv1.VirtualMachine, into *recipe.Recipe) error {
	var err error
	if into.Machine, err = recipe.Encode(vm); err != nil {
		return err
	}
	names := disksOf(vm)
	for _, attachment := range r.Objects.Attachments(resource.KeyOf(vm)) {
		text, err := recipe.Encode(attachment)
		if err != nil {
			return err
		}
		into.Attachments = append(into.Attachments, text)
		ref := attachment.GetSpec().GetBlockDeviceRef()
		if ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk && !slices.Contains(names, ref.GetName()) {
			names = append(names, ref.GetName())
		}
	}
	for _, name := range names {
		if err := r.gatherDisk(snapshot, vm, name, into); err != nil {
			return err
		}
	}
	if err := r.gatherAddress(snapshot, vm, into); err != nil {
		return err
	}
	if err := r.gatherMAC(snapshot, vm, into); err != nil {
		return err
	}
	return r.gatherSecret(ctx, vm, into)
}

func (r *Reconciler) gatherDisk(snapshot *snapshotv1.VirtualMachineSnapshot, vm *vmv1.VirtualMachine, name string, into *recipe.Recipe) error {
	namespace := vm.GetMetadata().GetNamespace()
	disk, found := r.Objects.Disk(resource.Key{Namespace: namespace, Name: name})
	if !found {
		return fault.New(fault.NotFound, reasonBlockDevices, "VirtualDisk %s does not exist.", name)
	}
	text, err := recipe.Encode(disk)
	if err != nil {
		return err
	}
	into.Disks = append(into.Disks, recipe.Disk{
		Manifest: text, Snapshot: name + "-" + snapshot.GetMetadata().GetUid(),
		Source: capture.Disk{Namespace: namespace, Name: name, UID: disk.GetMetadata().GetUid()},
	})
	return nil
}

// gatherAddress keeps the VM's address as the platform's table has it (api.md,
// B.7).
func (r *Reconciler) gatherAddress(snapshot *snapshotv1.VirtualMachineSnapshot, vm *vmv1.VirtualMachine, into *recipe.Recipe) error {
	named := vm.GetSpec().GetVirtualMachineIpAddressName()
	name := named
	if name == "" {
		name = vm.GetStatus().GetVirtualMachineIpAddressName()
	}
	address, found := r.Objects.Address(resource.Key{Namespace: vm.GetMetadata().GetNamespace(), Name: name})
	if !found {
		return nil // the VM never had one
	}
	always := snapshot.GetSpec().GetKeepIpAddress() != snapshotv1.KeepIPAddress_Never
	if address.GetSpec().GetType() == networkv1.IPAddressType_Auto {
		if !always && named == "" {
			return nil
		}
		if always && address.GetStatus().GetAddress() != "" {
			address.Spec = &networkv1.VirtualMachineIPAddressSpec{
				Type: networkv1.IPAddressType_Static, StaticIp: address.GetStatus().GetAddress(),
			}
		}
	}
	var err error
	into.Address, err = recipe.Encode(address)
	return err
}

// gatherMAC does the same with the VM's MAC.
func (r *Reconciler) gatherMAC(snapshot *snapshotv1.VirtualMachineSnapshot, vm *vmv1.VirtualMachine, into *recipe.Recipe) error {
	named, name := "", ""
	for _, network := range vm.GetSpec().GetNetworks() {
		named = network.GetVirtualMachineMacAddressName()
	}
	for _, network := range vm.GetStatus().GetNetworks() {
		name = network.GetVirtualMachineMacAddressName()
	}
	mac, found := r.Objects.MAC(resource.Key{Namespace: vm.GetMetadata().GetNamespace(), Name: cmp.Or(named, name)})
	if !found {
		return nil // the VM never had one
	}
	if mac.GetSpec().GetAddress() == "" {
		always := snapshot.GetSpec().GetKeepIpAddress() != snapshotv1.KeepIPAddress_Never
		if !always && named == "" {
			return nil
		}
		if always {
			mac.Spec = &networkv1.VirtualMachineMACAddressSpec{Address: mac.GetStatus().GetAddress()}
		}
	}
	var err error
	into.MAC, err = recipe.Encode(mac)
	return err
}

// gatherSecret keeps the content of the Secret that sets the guest up.
func (r *Reconciler) gatherSecret(ctx context.Context, vm *vmv1.VirtualMachine, into *recipe.Recipe) error {
	name := SecretOf(vm)
	if name == "" {
		return nil
	}
	secret, err := r.Objects.Secret(ctx, resource.Key{Namespace: vm.GetMetadata().GetNamespace(), Name: name})
	if fault.Is(err, fault.NotFound, fault.NotReady) {
		return fault.New(fault.NotReady, reasonMachineNotReady, "%s.", strings.TrimSuffix(fault.From(err).Message, "."))
	}
	if err != nil {
		return err
	}
	into.Secret = &recipe.Secret{Name: name, Type: secret.GetType(), Data: secret.GetData()}
	return nil
}

// SecretOf is the name of the Secret that sets a VM up; empty where none does.
func SecretOf(vm *vmv1.VirtualMachine) string {
	switch provisioning := vm.GetSpec().GetProvisioning(); provisioning.GetType() {
	case vmv1.ProvisioningType_UserDataRef:
		return provisioning.GetUserDataRef().GetName()
	case vmv1.ProvisioningType_SysprepRef:
		return provisioning.GetSysprepRef().GetName()
	}
	return ""
}
