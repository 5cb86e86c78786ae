package vm

import (
	"context"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
)

// GetGuestInfo implements vmv1.VirtualMachineServiceServer.
func (s *Service) GetGuestInfo(ctx context.Context, request *metav1.GetRequest) (*vmv1.GuestInfo, error) {
	vm, err := s.machines.Get(resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()})
	if err != nil {
		return nil, err
	}
	return s.engine.GuestInfo(ctx, vm.GetMetadata().GetUid())
}
