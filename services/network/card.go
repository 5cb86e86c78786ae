package network

import (
	"context"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/address"
)

// machineLabel ties a VirtualMachineMACAddress that was made for a VM to it.
const machineLabel = "virtualization.deckhouse.io/virtual-machine-uid"

// ClaimVirtualMachineMACAddress implements
// networkv1.VirtualMachineMACAddressServiceServer. The port is told the address
// when its VirtualMachineIPAddress is claimed.
func (s *Service) ClaimVirtualMachineMACAddress(ctx context.Context, req *metav1.ClaimRequest) (*networkv1.Port, error) {
	key, holder := resource.Key{Namespace: req.GetNamespace(), Name: req.GetName()}, req.GetHolder()
	mac, err := s.macs.addresses.AddHolder(ctx, key, holder, func(mac macAddress) error { return s.macs.kind.AdmitHolder(mac, holder) })
	if err != nil {
		return nil, err
	}
	return &networkv1.Port{MacAddress: mac.GetStatus().GetAddress()}, nil
}

// ReleaseVirtualMachineMACAddress implements
// networkv1.VirtualMachineMACAddressServiceServer.
func (s *Service) ReleaseVirtualMachineMACAddress(ctx context.Context, req *metav1.ReleaseRequest) (*metav1.ReleaseResponse, error) {
	key := resource.Key{Namespace: req.GetNamespace(), Name: req.GetName()}
	_, err := s.macs.addresses.RemoveHolder(ctx, key, req.GetHolderUid())
	return &metav1.ReleaseResponse{}, err
}

// Card implements port.Cards: the MAC of the VM that has that UID, which it has
// claimed.
func (s *Service) Card(namespace, uid string) (address.MAC, error) {
	found, known := address.MAC{}, false
	err := s.macs.addresses.Each(namespace, func(mac macAddress) {
		if heldBy(mac, uid) && s.macs.kind.Status(mac).Bound() {
			at, err := address.ParseMAC(mac.GetStatus().GetAddress())
			found, known = at, err == nil
		}
	})
	if err == nil && !known {
		err = fault.New(fault.NotReady, "VirtualMachineMACAddressNotReady", "the VM has claimed no VirtualMachineMACAddress yet")
	}
	return found, err
}

// seed is that of the MAC of a VM: its VirtualMachineIPAddress, which guests had
// their MACs from before there were leases of them. Without one it is the
// object itself.
func (s *Service) seed(mac macAddress) (string, error) {
	machine := mac.GetMetadata().GetLabels()[machineLabel]
	if machine == "" {
		return "", nil
	}
	seed := ""
	err := s.ips.addresses.Each(mac.GetMetadata().GetNamespace(), func(ip ipAddress) {
		if heldBy(ip, machine) {
			seed = ip.GetMetadata().GetUid()
		}
	})
	return seed, err
}

func heldBy(object resource.Object, uid string) bool {
	for _, holder := range object.GetMetadata().GetHolders() {
		if holder.GetUid() == uid {
			return true
		}
	}
	return false
}
