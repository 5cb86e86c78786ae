package quiesce

import (
	"context"
	"errors"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// restOf is how a guest is brought to rest. One whose memory is kept is not frozen
// for as long as that takes, unless it has to be.
func restOf(request *vmv1.SwitchGuestDisksRequest) vmv1.GuestRest_Value {
	if request.GetMemory() && request.GetRest() != vmv1.GuestRest_Required {
		return vmv1.GuestRest_None
	}
	return request.GetRest()
}

func boundOf(request *vmv1.SwitchGuestDisksRequest) time.Duration {
	if request.GetMemory() && restOf(request) == vmv1.GuestRest_None {
		return keepBound
	}
	return bound
}

// DropGuestMemory implements vmv1.GuestDiskServiceServer.
func (s *Service) DropGuestMemory(ctx context.Context, request *vmv1.DropGuestMemoryRequest) (*vmv1.DropGuestMemoryResponse, error) {
	return &vmv1.DropGuestMemoryResponse{}, s.opts.Engine.Drop(ctx, request.GetToken())
}

// change switches the files, and keeps the memory if that is wanted.
func (w *work) change(ctx context.Context) error {
	if !w.memory {
		return w.opts.Engine.Switch(ctx, w.uid, w.overlays)
	}
	limit := keepBound
	if w.record.ThawBy != nil {
		limit = bound - thawReserve // whatever its memory takes
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := w.opts.Engine.Keep(ctx, w.uid, w.record.Token, w.overlays, w.record.ThawBy != nil)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fault.Wrap(err, fault.Invalid, ReasonMemory,
			"the guest's memory can't be written in %s; with spec.requiredConsistency: false it has longer, since its file systems are not frozen meanwhile", limit)
	}
	w.record.Memory = err == nil
	return err
}
