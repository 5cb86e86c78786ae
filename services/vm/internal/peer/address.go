package peer

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// machineLabel ties an address that was made for a VM to it.
const machineLabel = "virtualization.deckhouse.io/virtual-machine-uid"

// Addresses implements machine.Addresses.
type Addresses struct {
	mirror *resource.Mirror[*networkv1.VirtualMachineIPAddress]
}

// NewAddresses returns a copy over a connection to the network service.
func NewAddresses(network grpc.ClientConnInterface, changed Changed) (*Addresses, error) {
	mirror, err := newMirror[*networkv1.VirtualMachineIPAddress](network, changed)
	return &Addresses{mirror: mirror}, err
}

// Run keeps the copy until ctx ends.
func (a *Addresses) Run(ctx context.Context) error { return a.mirror.Run(ctx) }

// WaitSynced blocks until the copy is complete, or ctx ends.
func (a *Addresses) WaitSynced(ctx context.Context) error { return a.mirror.WaitSynced(ctx) }

// Find implements machine.Addresses.
func (a *Addresses) Find(vm *vmv1.VirtualMachine, name string) *networkv1.VirtualMachineIPAddress {
	meta := vm.GetMetadata()
	if name != "" {
		address, found := a.mirror.Get(resource.Key{Namespace: meta.GetNamespace(), Name: name})
		if !found {
			return nil
		}
		return address
	}
	mine := labels.SelectorFromSet(labels.Set{machineLabel: meta.GetUid()})
	for _, address := range a.mirror.List(meta.GetNamespace(), mine) {
		if address.GetMetadata().GetDeletionTimestamp() == nil || vm.GetMetadata().GetDeletionTimestamp() != nil {
			return address
		}
	}
	return nil
}

// Make implements machine.Addresses. The request's identity is the VM's, so
// that a repeated call makes no second address.
func (a *Addresses) Make(ctx context.Context, vm *vmv1.VirtualMachine) error {
	meta := vm.GetMetadata()
	controller := true
	address := resource.New[*networkv1.VirtualMachineIPAddress](a.mirror.Client().Kind())
	address.Metadata = &metav1.ObjectMeta{
		GenerateName: meta.GetName() + "-", Namespace: meta.GetNamespace(),
		Labels: map[string]string{machineLabel: meta.GetUid()},
		OwnerReferences: []*metav1.OwnerReference{{
			ApiVersion: vm.GetApiVersion(), Kind: vm.GetKind(), Name: meta.GetName(), Uid: meta.GetUid(), Controller: &controller,
		}},
	}
	address.Spec = &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte("address/"+meta.GetUid())).String()
	_, err := a.mirror.Client().Create(ctx, address, resource.WriteOptions{RequestID: id})
	return err
}

// Claim implements machine.Addresses.
func (a *Addresses) Claim(ctx context.Context, address *networkv1.VirtualMachineIPAddress, holder *metav1.Holder) (*networkv1.Port, error) {
	port := new(networkv1.Port)
	return port, a.mirror.Client().Claim(ctx, resource.KeyOf(address), holder, port)
}

// Release implements machine.Addresses.
func (a *Addresses) Release(ctx context.Context, address *networkv1.VirtualMachineIPAddress, holder *metav1.Holder) error {
	err := a.mirror.Client().Release(ctx, resource.KeyOf(address), holder.GetUid())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
