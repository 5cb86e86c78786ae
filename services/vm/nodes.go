package vm

import (
	"context"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
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

// Accelerator says what runs guests, and why: a sentence for people.
func (s *Service) Accelerator() (name, reason string) {
	return string(s.host.Accelerator), s.host.Reason
}
