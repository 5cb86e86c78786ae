package vm

import (
	"context"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// verbs are the methods that make an operation: what one tells a VM, in a word.
type verbs struct {
	vmv1.UnimplementedVirtualMachineOperationServiceServer

	service *Service
}

// named is a request that names a VM.
type named interface {
	GetNamespace() string
	GetName() string
	GetRequestId() string
}

// StartVirtualMachine implements vmv1.VirtualMachineOperationServiceServer.
func (v verbs) StartVirtualMachine(ctx context.Context, req *vmv1.StartVirtualMachineRequest) (*vmv1.VirtualMachineOperation, error) {
	return v.make(ctx, req, "start", &vmv1.VirtualMachineOperationSpec{Type: vmv1.OperationType_Start})
}

// StopVirtualMachine implements vmv1.VirtualMachineOperationServiceServer.
func (v verbs) StopVirtualMachine(ctx context.Context, req *vmv1.StopVirtualMachineRequest) (*vmv1.VirtualMachineOperation, error) {
	return v.make(ctx, req, "stop", &vmv1.VirtualMachineOperationSpec{Type: vmv1.OperationType_Stop, Force: req.Force})
}

// RestartVirtualMachine implements vmv1.VirtualMachineOperationServiceServer.
func (v verbs) RestartVirtualMachine(ctx context.Context, req *vmv1.RestartVirtualMachineRequest) (*vmv1.VirtualMachineOperation, error) {
	return v.make(ctx, req, "restart", &vmv1.VirtualMachineOperationSpec{Type: vmv1.OperationType_Restart, Force: req.Force})
}

// MigrateVirtualMachine implements vmv1.VirtualMachineOperationServiceServer.
func (v verbs) MigrateVirtualMachine(ctx context.Context, req *vmv1.MigrateVirtualMachineRequest) (*vmv1.VirtualMachineOperation, error) {
	spec := &vmv1.VirtualMachineOperationSpec{Type: vmv1.OperationType_Migrate, Force: req.Force}
	if selector := req.GetNodeSelector(); len(selector) > 0 {
		spec.Migrate = &vmv1.OperationMigrate{NodeSelector: selector}
	}
	return v.make(ctx, req, "migrate", spec)
}

// make makes an operation, once for each request that has an ID.
func (v verbs) make(ctx context.Context, req named, verb string, spec *vmv1.VirtualMachineOperationSpec) (*vmv1.VirtualMachineOperation, error) {
	kind := v.service.operations.Kind()
	spec.VirtualMachineName = req.GetName()
	return created(v.service.operations.methods.Create(ctx, &vmv1.CreateVirtualMachineOperationRequest{
		Namespace: req.GetNamespace(), RequestId: req.GetRequestId(),
		VirtualMachineOperation: &vmv1.VirtualMachineOperation{
			ApiVersion: kind.APIVersion(), Kind: kind.Name, Spec: spec,
			Metadata: &metav1.ObjectMeta{GenerateName: req.GetName() + "-" + verb + "-"},
		},
	}))
}

func created(message proto.Message, err error) (*vmv1.VirtualMachineOperation, error) {
	op, _ := message.(*vmv1.VirtualMachineOperation)
	return op, err
}
