package vm

import (
	"context"
	"fmt"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/qemu"
)

// ListNodes implements vmv1.NodeServiceServer.
func (s *Service) ListNodes(context.Context, *vmv1.ListNodesRequest) (*vmv1.ListNodesResponse, error) {
	response := new(vmv1.ListNodesResponse)
	for _, n := range s.nodes {
		response.Items = append(response.Items, &vmv1.Node{
			Name: n.Name, Labels: n.Labels, Allocatable: n.Allocatable(), Schedulable: true, Address: s.nodeAddress,
			Accelerator: string(s.host.Accelerator), QemuVersion: s.host.Version.String(),
		})
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

// Accelerator says what runs guests, and why: a sentence for people.
func (s *Service) Accelerator() (name, reason string) {
	return string(s.host.Accelerator), s.host.Reason
}
