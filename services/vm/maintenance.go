package vm

import (
	"context"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/power"
)

// reasonMaintenance is that of a refusal: somebody else keeps the VM off.
const reasonMaintenance = "MaintenanceByOther"

// maintenance keeps VMs off for other services.
type maintenance struct {
	vmv1.UnimplementedMaintenanceServiceServer

	service *Service
	records *power.Store
}

// BeginMaintenance implements vmv1.MaintenanceServiceServer. A start that is under
// way meanwhile fails to write its place into the record, and does not happen.
func (m maintenance) BeginMaintenance(ctx context.Context, request *vmv1.BeginMaintenanceRequest) (*vmv1.BeginMaintenanceResponse, error) {
	key := resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()}
	vm, found := m.service.Machine(key)
	if !found || vm.GetMetadata().GetUid() != request.GetUid() {
		return nil, fault.New(fault.NotFound, "VirtualMachineNotFound", "VirtualMachine %s is not there", key.Name)
	}
	holder, off := request.GetHolder(), false
	var other *power.Maintenance
	err := m.records.Change(ctx, request.GetUid(), func(record *power.Record) {
		if other = record.Maintenance; other != nil && other.UID != holder.GetUid() {
			return
		}
		other, off = nil, record.Node == ""
		record.Memory = nil // the disks are to be others
		record.Maintenance = &power.Maintenance{UID: holder.GetUid(), Kind: holder.GetKind(), Name: holder.GetName()}
	})
	if err != nil {
		return nil, err
	}
	if other != nil {
		return nil, fault.New(fault.NotReady, reasonMaintenance, "VirtualMachine %s is kept off by %s %s", key.Name, other.Kind, other.Name)
	}
	m.service.Wake(key)
	return &vmv1.BeginMaintenanceResponse{Off: off}, nil
}

// EndMaintenance implements vmv1.MaintenanceServiceServer.
func (m maintenance) EndMaintenance(ctx context.Context, request *vmv1.EndMaintenanceRequest) (*vmv1.EndMaintenanceResponse, error) {
	record, err := m.records.Get(ctx, request.GetUid())
	if err != nil {
		return nil, err
	}
	if record.Maintenance == nil || record.Maintenance.UID != request.GetHolderUid() {
		return &vmv1.EndMaintenanceResponse{}, nil
	}
	err = m.records.Change(ctx, request.GetUid(), func(record *power.Record) {
		if record.Maintenance != nil && record.Maintenance.UID == request.GetHolderUid() {
			record.Maintenance = nil
			if token := request.GetMemory(); token != "" {
				on := true // as the guest was
				record.Memory, record.On = &power.Memory{Token: token}, &on
			}
		}
	})
	m.service.instanceChanged(request.GetUid())
	return &vmv1.EndMaintenanceResponse{}, err
}
