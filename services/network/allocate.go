package network

import (
	"context"
	"errors"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
)

const (
	// allocateMost is how many VMs' addresses and leases a transaction holds.
	allocateMost = resource.BatchSize / 4
	// allocateAttempts bounds the races that one call may lose.
	allocateAttempts = 16
)

// AllocateAddresses implements networkv1.AddressServiceServer.
func (s *Service) AllocateAddresses(ctx context.Context, req *networkv1.AllocateAddressesRequest) (*networkv1.AllocateAddressesResponse, error) {
	if n := len(req.GetMachines()); n == 0 || n > allocateMost {
		return nil, fault.Refuse("machines", "FieldValueInvalid", "must be between 1 and %d", allocateMost)
	}
	for attempt := 1; ; attempt++ {
		resp, err := s.allocate(ctx, req)
		var lost *resource.LostError
		if !errors.As(err, &lost) {
			return resp, err
		}
		if !s.ips.leased(lost) && !s.macs.leased(lost) {
			return nil, lost.Err // the object itself is there
		}
		if attempt == allocateAttempts {
			return nil, fault.New(fault.Stale, resource.ReasonConflict, "leases are being changed by others: try again")
		}
	}
}

// allocate tries once. A *resource.LostError says that somebody else was faster.
func (s *Service) allocate(ctx context.Context, req *networkv1.AllocateAddressesRequest) (*networkv1.AllocateAddressesResponse, error) {
	batch := new(resource.Batch)
	ips, macs := s.ips.book.Draft(batch), s.macs.book.Draft(batch)
	resp := new(networkv1.AllocateAddressesResponse)
	for _, wanted := range req.GetMachines() {
		given := new(networkv1.MachineAddresses)
		var err error
		if ip := wanted.GetVirtualMachineIpAddress(); ip != nil {
			if given.VirtualMachineIpAddress, err = s.ips.allot(ctx, batch, ips, ip); err != nil {
				return nil, err
			}
		}
		if mac := wanted.GetVirtualMachineMacAddress(); mac != nil {
			if given.VirtualMachineMacAddress, err = s.macs.allot(ctx, batch, macs, mac); err != nil {
				return nil, err
			}
		}
		resp.Machines = append(resp.Machines, given)
	}
	if err := batch.Commit(ctx); err != nil {
		return nil, err
	}
	ips.Committed()
	macs.Committed()
	return resp, nil
}

// allot gives one address in a batch.
func (f *family[A, T, L]) allot(ctx context.Context, batch *resource.Batch, draft *lease.Draft[A, L], wanted T) (T, error) {
	object, err := f.methods.Judge(ctx, wanted)
	if err != nil {
		return object, err
	}
	if object, err = f.rules.Allot(object, draft); err != nil {
		return object, err
	}
	return object, f.addresses.StageCreate(batch, object)
}

// leased reports whether it was one of the leases that was lost.
func (f *family[A, T, L]) leased(lost *resource.LostError) bool {
	return lost.Kind == f.leases.Kind().Name
}
