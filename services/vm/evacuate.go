package vm

import (
	"context"
	"slices"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
	"orlop.dev/services/vm/internal/relocation"
)

// EvacuateNode implements vmv1.NodeServiceServer.
func (s *Service) EvacuateNode(ctx context.Context, request *vmv1.EvacuateNodeRequest) (*vmv1.EvacuateNodeResponse, error) {
	nodes, err := s.nodes.All(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(nodes, func(n node.Node) bool { return n.Name == request.GetName() }) {
		return nil, fault.New(fault.NotFound, resource.ReasonNotFound, "node %q not found", request.GetName())
	}
	machines, err := s.machines.All("", nil)
	if err != nil {
		return nil, err
	}
	response := new(vmv1.EvacuateNodeResponse)
	for _, vm := range machines {
		meta, only := vm.GetMetadata(), request.GetOnly()
		if only != nil && (only.GetNamespace() != meta.GetNamespace() || only.GetName() != meta.GetName()) {
			continue
		}
		record, err := s.survey.Power.Get(ctx, meta.GetUid())
		if err != nil {
			return nil, err
		}
		if record.Node != request.GetName() {
			continue
		}
		outcome, err := s.evacuate(ctx, vm, record)
		if err != nil {
			return nil, err
		}
		response.Guests = append(response.Guests, &vmv1.Evacuee{
			Namespace: meta.GetNamespace(), Name: meta.GetName(), Operation: outcome.Operation, Message: outcome.Message,
		})
	}
	return response, nil
}

// evacuate moves a VM that runs. One that starts or stops is waited for.
func (s *Service) evacuate(ctx context.Context, vm *vmv1.VirtualMachine, record *power.Record) (relocation.Outcome, error) {
	switch phase := vm.GetStatus().GetPhase(); phase {
	case vmv1.VirtualMachinePhase_Running, vmv1.VirtualMachinePhase_Migrating:
		return s.mover.Move(ctx, vm, record, relocation.Evacuation.Of(record.Node))
	default:
		return relocation.Outcome{Message: "The VM is " + phase.String() + ", and can be moved when it is Running."}, nil
	}
}

func (s *Service) createOperation(ctx context.Context, op *vmv1.VirtualMachineOperation) (*vmv1.VirtualMachineOperation, error) {
	kind := s.operations.Kind()
	op.ApiVersion, op.Kind = kind.APIVersion(), kind.Name
	return s.operations.Create(ctx, op)
}

// RebalanceNodes implements vmv1.NodeServiceServer.
func (s *Service) RebalanceNodes(ctx context.Context, request *vmv1.RebalanceNodesRequest) (*vmv1.RebalanceNodesResponse, error) {
	world, err := s.survey.World(ctx)
	if err != nil {
		return nil, err
	}
	response := new(vmv1.RebalanceNodesResponse)
	for _, step := range world.Even(s.movable(ctx)) {
		move := &vmv1.Move{Namespace: step.Guest.Namespace(), Name: step.Guest.BareName(), From: step.Guest.Node, To: step.To}
		if !request.GetValidateOnly() {
			if move.Operation, err = s.rebalance(ctx, step); err != nil {
				return nil, err
			}
		}
		response.Moves = append(response.Moves, move)
	}
	return response, nil
}

// movable reports whether a VM could be moved now.
func (s *Service) movable(ctx context.Context) func(*placement.Guest) bool {
	return func(g *placement.Guest) bool {
		vm, found := s.Machine(resource.Key{Namespace: g.Namespace(), Name: g.BareName()})
		if !found || vm.GetStatus().GetPhase() != vmv1.VirtualMachinePhase_Running {
			return false
		}
		record, err := s.survey.Power.Get(ctx, g.UID())
		return err == nil && (len(record.Pinned) == 0 || s.rules.Migration.CopyDisks) && !record.Migration.Active()
	}
}

func (s *Service) rebalance(ctx context.Context, step placement.Step) (string, error) {
	vm, found := s.Machine(resource.Key{Namespace: step.Guest.Namespace(), Name: step.Guest.BareName()})
	if !found {
		return "", nil
	}
	record, err := s.survey.Power.Get(ctx, step.Guest.UID())
	if err != nil {
		return "", err
	}
	outcome, err := s.mover.Move(ctx, vm, record, relocation.Evacuation.Of("rebalance", record.Node))
	return outcome.Operation, err
}

// keepEven evens out the load of the nodes from time to time, if so configured.
func (s *Service) keepEven(ctx context.Context) error {
	if s.every <= 0 {
		return nil
	}
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := s.RebalanceNodes(ctx, &vmv1.RebalanceNodesRequest{}); err != nil && ctx.Err() == nil {
			s.logger.WarnContext(ctx, "can't even out the load of the nodes", "error", err)
		}
	}
}
