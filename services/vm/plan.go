package vm

import (
	"context"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// PlanVirtualMachineUpdate implements vmv1.VirtualMachineServiceServer.
func (s *Service) PlanVirtualMachineUpdate(
	ctx context.Context, req *vmv1.PlanVirtualMachineUpdateRequest,
) (*vmv1.PlanVirtualMachineUpdateResponse, error) {
	preview, err := s.machines.methods.Preview(ctx, req)
	if err != nil {
		return nil, err
	}
	changes, err := s.rules.Plan(ctx, preview.Current, preview.Wanted, preview.Refusal)
	if err != nil {
		return nil, err
	}
	return &vmv1.PlanVirtualMachineUpdateResponse{Changes: changes}, nil
}
