package network

import (
	"context"
	"net/netip"

	"google.golang.org/grpc"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/reservation"
)

// ClaimVirtualMachineIPAddress implements
// networkv1.VirtualMachineIPAddressServiceServer. A VM that runs gets its port;
// one that only refers to the address is told what it would be.
func (s *Service) ClaimVirtualMachineIPAddress(ctx context.Context, req *metav1.ClaimRequest) (*networkv1.Port, error) {
	key, holder := resource.Key{Namespace: req.GetNamespace(), Name: req.GetName()}, req.GetHolder()
	_, err := s.ips.addresses.AddHolder(ctx, key, holder, func(ip ipAddress) error { return s.ips.kind.AdmitHolder(ip, holder) })
	if err != nil {
		return nil, err
	}
	return s.board.Plug(ctx, key, holder.GetUid())
}

// ReleaseVirtualMachineIPAddress implements
// networkv1.VirtualMachineIPAddressServiceServer.
func (s *Service) ReleaseVirtualMachineIPAddress(ctx context.Context, req *metav1.ReleaseRequest) (*metav1.ReleaseResponse, error) {
	key := resource.Key{Namespace: req.GetNamespace(), Name: req.GetName()}
	ip, err := s.ips.addresses.RemoveHolder(ctx, key, req.GetHolderUid())
	if err != nil {
		return nil, err
	}
	if ip != nil {
		err = s.board.Settle(ctx, key, ip.GetMetadata().GetUid())
	}
	return &metav1.ReleaseResponse{}, err
}

// Connect implements networkv1.VirtualMachineIPAddressServiceServer.
func (s *Service) Connect(stream grpc.BidiStreamingServer[networkv1.ConnectRequest, networkv1.ConnectResponse]) error {
	return s.tunnel.Serve(stream)
}

// find tells the address of a VM that runs.
func (s *Service) find(namespace, machine string) (netip.Addr, error) {
	addresses, err := s.ips.addresses.All(namespace, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range addresses {
		holder := reservation.Machine(ip)
		if namespace == "" || !holder.GetActive() || holder.GetName() != machine {
			continue
		}
		if at, err := netip.ParseAddr(ip.GetStatus().GetAddress()); err == nil {
			return at, nil
		}
	}
	return netip.Addr{}, fault.New(fault.NotReady, "VirtualMachineNotRunning",
		"VirtualMachine %s/%s has no address that it runs with: wait until it is Running", namespace, machine)
}
