package vm

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/qemu"
)

// ListNodes implements vmv1.NodeServiceServer.
func (s *Service) ListNodes(ctx context.Context, _ *vmv1.ListNodesRequest) (*vmv1.ListNodesResponse, error) {
	nodes, err := s.nodes.All(ctx)
	if err != nil {
		return nil, err
	}
	world, err := s.survey.World(ctx)
	if err != nil {
		return nil, err
	}
	response := new(vmv1.ListNodesResponse)
	for _, n := range nodes {
		response.Items = append(response.Items, s.nodeMessage(n, world))
	}
	return response, nil
}

// processorOf is what guests can see of the nodes' processors.
func processorOf(host qemu.Host) class.Processor {
	return class.Processor{
		Name:     fmt.Sprintf("QEMU %s with %s", host.Version, host.Accelerator),
		Features: host.Processor.Features, Models: host.Processor.Models,
	}
}

func (s *Service) nodeMessage(n node.Node, world *placement.World) *vmv1.Node {
	message := &vmv1.Node{
		Name: n.Name, Labels: n.AllLabels(), Allocatable: n.Allocatable(), Schedulable: !n.State.Unschedulable,
		Address:   s.nodeAddress,
		Allocated: world.Used(n.Name).Quantities(), Taints: taintMessages(n.State.Taints),
		State: &vmv1.NodeState{
			Labels: n.State.Labels, Taints: taintMessages(n.State.Taints), Unschedulable: n.State.Unschedulable,
		},
	}
	message.Accelerator, message.QemuVersion = string(s.host.Accelerator), s.host.Version.String()
	return message
}

func taintMessages(taints []corev1.Taint) []*vmv1.Taint {
	var messages []*vmv1.Taint
	for _, taint := range taints {
		messages = append(messages, &vmv1.Taint{Key: taint.Key, Value: taint.Value, Effect: string(taint.Effect)})
	}
	return messages
}

// SetNodeState implements vmv1.NodeServiceServer.
func (s *Service) SetNodeState(ctx context.Context, request *vmv1.SetNodeStateRequest) (*vmv1.Node, error) {
	wanted := request.GetState()
	state := node.State{Labels: wanted.GetLabels(), Unschedulable: wanted.GetUnschedulable()}
	for _, taint := range wanted.GetTaints() {
		state.Taints = append(state.Taints, corev1.Taint{
			Key: taint.GetKey(), Value: taint.GetValue(), Effect: corev1.TaintEffect(taint.GetEffect()),
		})
	}
	n, err := s.nodes.SetState(ctx, request.GetName(), state)
	if err != nil {
		return nil, err
	}
	s.nodesChanged()
	world, err := s.survey.World(ctx)
	if err != nil {
		return nil, err
	}
	return s.nodeMessage(n, world), nil
}

// nodesChanged wakes whoever goes by nodes.
func (s *Service) nodesChanged() {
	if classes, err := s.classes.All("", nil); err == nil {
		for _, class := range classes {
			s.classes.loop.Trigger(resource.KeyOf(class))
		}
	}
	// VMs that run may have to leave, and others find room.
	s.eachMachine("", func(vm *vmv1.VirtualMachine) { s.machines.loop.Trigger(resource.KeyOf(vm)) })
}

// SetClusterState implements vmv1.NodeServiceServer.
func (s *Service) SetClusterState(ctx context.Context, request *vmv1.SetClusterStateRequest) (*vmv1.SetClusterStateResponse, error) {
	cluster := &node.Cluster{
		Namespaces: map[string]map[string]string{}, Priorities: request.GetPriorities(), DefaultPriority: request.GetDefaultPriority(),
	}
	for name, namespace := range request.GetNamespaces() {
		cluster.Namespaces[name] = namespace.GetLabels()
	}
	if err := s.nodes.SetCluster(ctx, cluster); err != nil {
		return nil, err
	}
	s.wakeWaiting()
	return &vmv1.SetClusterStateResponse{}, nil
}

// Accelerator says what runs guests, and why: a sentence for people.
func (s *Service) Accelerator() (name, reason string) {
	return string(s.host.Accelerator), s.host.Reason
}
