package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/grpc"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const (
	// machineLabel ties an address that was made for a VM to it.
	machineLabel = "virtualization.deckhouse.io/virtual-machine-uid"
	// suffixLength keeps names short and two VMs' apart.
	suffixLength = 5
)

// Addresses implements machine.Addresses.
type Addresses[T resource.Object] struct {
	mirror *resource.Mirror[T]
}

// NewAddresses returns a copy of the IP addresses over a connection to the network
// service.
func NewAddresses(network grpc.ClientConnInterface, changed Changed) (*Addresses[*networkv1.VirtualMachineIPAddress], error) {
	mirror, err := newMirror[*networkv1.VirtualMachineIPAddress](network, changed)
	return &Addresses[*networkv1.VirtualMachineIPAddress]{mirror}, err
}

// NewMACs is the same of MAC addresses.
func NewMACs(network grpc.ClientConnInterface, changed Changed) (*Addresses[*networkv1.VirtualMachineMACAddress], error) {
	mirror, err := newMirror[*networkv1.VirtualMachineMACAddress](network, changed)
	return &Addresses[*networkv1.VirtualMachineMACAddress]{mirror}, err
}

// Run keeps the copy until ctx ends.
func (a *Addresses[T]) Run(ctx context.Context) error { return a.mirror.Run(ctx) }

// WaitSynced blocks until the copy is complete, or ctx ends.
func (a *Addresses[T]) WaitSynced(ctx context.Context) error { return a.mirror.WaitSynced(ctx) }

// Find implements machine.Addresses.
func (a *Addresses[T]) Find(vm *vmv1.VirtualMachine, name string) T {
	var none T
	meta := vm.GetMetadata()
	if name != "" {
		address, found := a.mirror.Get(resource.Key{Namespace: meta.GetNamespace(), Name: name})
		if !found {
			return none
		}
		return address
	}
	address, found := a.mirror.Get(resource.Key{Namespace: meta.GetNamespace(), Name: OwnName(meta)})
	if !found || address.GetMetadata().GetLabels()[machineLabel] != meta.GetUid() {
		return none
	}
	return address
}

// OwnName is the name of the addresses that are made for a VM: the same each time,
// so that a repeated Allocate makes no second one.
func OwnName(machine *metav1.ObjectMeta) string {
	sum := sha256.Sum256([]byte(machine.GetUid()))
	return machine.GetName() + "-" + hex.EncodeToString(sum[:])[:suffixLength]
}

// Allocator implements machine.Allocator.
type Allocator struct {
	client networkv1.AddressServiceClient
}

// NewAllocator returns one over a connection to the network service.
func NewAllocator(network grpc.ClientConnInterface) *Allocator {
	return &Allocator{client: networkv1.NewAddressServiceClient(network)}
}

// Allocate implements machine.Allocator.
func (a *Allocator) Allocate(ctx context.Context, vm *vmv1.VirtualMachine, ip, mac bool) error {
	wanted := new(networkv1.MachineAddresses)
	if ip {
		wanted.VirtualMachineIpAddress = &networkv1.VirtualMachineIPAddress{
			Metadata: metaOf(vm), Spec: &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
		}
	}
	if mac {
		wanted.VirtualMachineMacAddress = &networkv1.VirtualMachineMACAddress{
			Metadata: metaOf(vm), Spec: new(networkv1.VirtualMachineMACAddressSpec),
		}
	}
	_, err := a.client.AllocateAddresses(ctx, &networkv1.AllocateAddressesRequest{Machines: []*networkv1.MachineAddresses{wanted}})
	if err = fault.FromStatus(err); fault.Is(err, fault.Exists) {
		return nil // made already, and seen soon
	}
	return err
}

// metaOf is that of an address that is made for a VM, and goes with it.
func metaOf(vm *vmv1.VirtualMachine) *metav1.ObjectMeta {
	meta, controller := vm.GetMetadata(), true
	return &metav1.ObjectMeta{
		Name: OwnName(meta), Namespace: meta.GetNamespace(),
		Labels: map[string]string{machineLabel: meta.GetUid()},
		OwnerReferences: []*metav1.OwnerReference{{
			ApiVersion: vm.GetApiVersion(), Kind: vm.GetKind(), Name: meta.GetName(), Uid: meta.GetUid(), Controller: &controller,
		}},
	}
}

// Held implements machine.Addresses.
func (a *Addresses[T]) Held(holder *metav1.Holder) []T {
	return a.mirror.HeldBy(holder.GetUid())
}

// Claim implements machine.Addresses.
func (a *Addresses[T]) Claim(ctx context.Context, address T, holder *metav1.Holder) (*networkv1.Port, error) {
	port := new(networkv1.Port)
	return port, a.mirror.Client().Claim(ctx, resource.KeyOf(address), holder, port)
}

// Release implements machine.Addresses.
func (a *Addresses[T]) Release(ctx context.Context, address T, holder *metav1.Holder) error {
	err := a.mirror.Client().Release(ctx, resource.KeyOf(address), holder.GetUid())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
