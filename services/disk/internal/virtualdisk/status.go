package virtualdisk

import (
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
)

// Types of a disk's conditions (api.md of the platform, A.2).
const (
	typeDatasourceReady   = "DatasourceReady"
	typeReady             = "Ready"
	typeStorageClassReady = "StorageClassReady"
	typeInUse             = "InUse"
	typeResizing          = "Resizing"
)

// status says what was observed. Of the old status it takes only the times at
// which things were first seen.
func (r *Reconciler) status(disk *diskv1.VirtualDisk, o *observation) *diskv1.VirtualDiskStatus {
	meta, old := disk.GetMetadata(), disk.GetStatus()
	status := &diskv1.VirtualDiskStatus{
		Phase:              phase(disk, o),
		StorageClassName:   o.class,
		SourceUid:          o.source.UID,
		ObservedGeneration: meta.GetGeneration(),
	}
	if status.SourceUid == "" {
		status.SourceUid = old.GetSourceUid()
	}
	if o.volume != nil {
		status.Capacity = quantity(o.volume.VirtualBytes)
		status.Progress = "100%"
		status.Target = &diskv1.DiskTarget{PersistentVolumeClaimName: "d8v-vd-" + meta.GetName() + "-" + meta.GetUid()}
	}
	status.AttachedToVirtualMachines = attached(disk)
	status.Stats = r.stats(disk, o)
	status.Conditions = r.conditions(disk, o)
	return status
}

func phase(disk *diskv1.VirtualDisk, o *observation) diskv1.DiskPhase_Value {
	switch {
	case disk.GetMetadata().GetDeletionTimestamp() != nil:
		return diskv1.DiskPhase_Terminating
	case o.volume != nil && o.wantedBytes > o.volume.VirtualBytes:
		return diskv1.DiskPhase_Resizing
	case o.volume != nil:
		return diskv1.DiskPhase_Ready
	case o.classFault != nil, o.sourceFault != nil:
		return diskv1.DiskPhase_Pending
	case o.volumeFault != nil && o.volumeFault.Class != fault.Transient:
		return diskv1.DiskPhase_Failed
	}
	return diskv1.DiskPhase_Provisioning
}

func attached(disk *diskv1.VirtualDisk) []*diskv1.AttachedVirtualMachine {
	var machines []*diskv1.AttachedVirtualMachine
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetKind() == "VirtualMachine" {
			mounted := holder.GetActive()
			machines = append(machines, &diskv1.AttachedVirtualMachine{Name: holder.GetName(), Mounted: &mounted})
		}
	}
	return machines
}

// stats are written once, when the disk is first seen to be made.
func (r *Reconciler) stats(disk *diskv1.VirtualDisk, o *observation) *diskv1.DiskStats {
	if old := disk.GetStatus().GetStats(); old.GetCreationDuration().GetTotalProvisioning() != "" || o.volume == nil {
		return old
	}
	total := r.Now().Sub(disk.GetMetadata().GetCreationTimestamp().AsTime()).Truncate(time.Second)
	return &diskv1.DiskStats{CreationDuration: &diskv1.DiskCreationDuration{TotalProvisioning: total.String()}}
}

func (r *Reconciler) conditions(disk *diskv1.VirtualDisk, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: disk.GetStatus().GetConditions(), Generation: disk.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if o.classFault != nil {
		list.False(typeStorageClassReady, o.classFault.Reason, o.classFault.Message)
	} else {
		list.True(typeStorageClassReady, "StorageClassReady", "")
	}
	if o.volume == nil && disk.GetSpec().GetDataSource() != nil {
		switch {
		case o.sourceFault != nil:
			list.False(typeDatasourceReady, o.sourceFault.Reason, o.sourceFault.Message)
		case o.source.Ready:
			list.True(typeDatasourceReady, "DatasourceReady", "")
		}
	}
	ready(&list, o)
	if holder := activeHolder(disk); holder != nil {
		list.True(typeInUse, "AttachedToVirtualMachine", holder.GetKind()+" "+holder.GetName()+" uses the disk.")
	} else {
		list.False(typeInUse, "NotInUse", "")
	}
	resizing(&list, disk, o)
	return list.Conditions()
}

// resizing is there while a disk is to grow.
func resizing(list *condition.List, disk *diskv1.VirtualDisk, o *observation) {
	if o.volume == nil || o.wantedBytes <= o.volume.VirtualBytes {
		return
	}
	switch holder := activeHolder(disk); {
	case holder != nil:
		list.False(typeResizing, "NotAvailable", "The disk grows when "+holder.GetKind()+" "+holder.GetName()+" stops.")
	case o.volumeFault != nil:
		list.False(typeResizing, "NotAvailable", o.volumeFault.Message)
	default:
		list.True(typeResizing, "InProgress", "")
	}
}

func ready(list *condition.List, o *observation) {
	switch {
	case o.volume != nil:
		list.True(typeReady, "Ready", "")
	case o.classFault != nil:
		list.False(typeReady, "StorageClassIsNotReady", o.classFault.Message)
	case o.sourceFault != nil && (o.sourceFault.Reason == reasonImageNotFound || o.sourceFault.Reason == reasonClusterImageNotFound):
		list.False(typeReady, "DatasourceIsNotFound", o.sourceFault.Message)
	case o.sourceFault != nil:
		list.False(typeReady, "DatasourceIsNotReady", o.sourceFault.Message)
	case o.volumeFault != nil && o.volumeFault.Reason == reasonNotSupported:
		list.False(typeReady, reasonNotSupported, o.volumeFault.Message)
	case o.volumeFault != nil:
		list.False(typeReady, reasonProvisioningFailed, o.volumeFault.Message)
	default:
		list.False(typeReady, "Provisioning", "The disk is being made.")
	}
}
