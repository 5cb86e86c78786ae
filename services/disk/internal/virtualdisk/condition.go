package virtualdisk

import (
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
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

func (r *Reconciler) conditions(disk *diskv1.VirtualDisk, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: disk.GetStatus().GetConditions(), Generation: disk.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if o.classFault != nil {
		list.False(typeStorageClassReady, o.classFault.Reason, o.classFault.Message)
	} else if o.class != "" {
		list.True(typeStorageClassReady, "StorageClassReady", "")
	}
	if o.volume == nil && !o.lost && disk.GetSpec().GetDataSource() != nil {
		switch {
		case o.sourceFault != nil:
			list.False(typeDatasourceReady, o.sourceFault.Reason, o.sourceFault.Message)
		case o.image.Ready, o.file != nil:
			list.True(typeDatasourceReady, "DatasourceReady", "")
		}
	}
	ready(&list, o)
	inUse(&list, disk)
	resizing(&list, disk, o)
	return list.Conditions()
}

// Reasons of InUse.
const (
	reasonAttached  = "AttachedToVirtualMachine"
	reasonForImage  = "UsedForImageCreation"
	reasonForExport = "UsedForDataExport"
)

// useOf is the reason of InUse by the kind of the holder.
func useOf(kind string) string {
	switch kind {
	case "VirtualImage", "ClusterVirtualImage":
		return reasonForImage
	case kindMachine:
		return reasonAttached
	}
	return reasonForExport
}

func inUse(list *condition.List, disk *diskv1.VirtualDisk) {
	holder := activeHolder(disk)
	if holder == nil {
		list.False(typeInUse, "NotInUse", "")
		return
	}
	message := holder.GetKind() + " " + holder.GetName() + " uses the disk."
	if deleted(disk) {
		message = holder.GetKind() + " " + holder.GetName() + " uses the disk, which is deleted when it lets go."
	}
	list.True(typeInUse, useOf(holder.GetKind()), message)
}

// resizing is there while a disk is to grow.
func resizing(list *condition.List, disk *diskv1.VirtualDisk, o *observation) {
	if o.volume == nil || o.wantedBytes <= o.volume.VirtualBytes {
		return
	}
	to := "from " + quantity(o.volume.VirtualBytes) + " to " + quantity(o.wantedBytes)
	switch holder := activeHolder(disk); {
	case o.volumeFault != nil:
		list.False(typeResizing, "NotAvailable", o.volumeFault.Message)
	case holder.GetKind() == kindMachine:
		list.True(typeResizing, "InProgress", "The disk grows "+to+" under the running VirtualMachine "+holder.GetName()+".")
	case holder != nil:
		list.False(typeResizing, "NotAvailable", "The disk grows "+to+" when "+holder.GetKind()+" "+holder.GetName()+" lets go of it.")
	default:
		list.True(typeResizing, "InProgress", "The disk grows "+to+".")
	}
}

func ready(list *condition.List, o *observation) {
	switch {
	case o.lost:
		list.False(typeReady, "PVCLost", "The disk's data is gone from the storage. It is used again if it comes back.")
	case o.volume != nil:
		list.True(typeReady, "Ready", "")
	case o.classFault != nil:
		list.False(typeReady, "StorageClassIsNotReady", o.classFault.Message)
	case o.sourceFault != nil && (o.sourceFault.Reason == reasonImageNotFound || o.sourceFault.Reason == reasonClusterImageNotFound):
		list.False(typeReady, "DatasourceIsNotFound", o.sourceFault.Message)
	case o.sourceFault != nil:
		list.False(typeReady, "DatasourceIsNotReady", o.sourceFault.Message)
	case o.volumeFault != nil:
		list.False(typeReady, reasonOfFault(o.volumeFault), o.volumeFault.Message)
	case o.awaits:
		list.False(typeReady, "WaitingForFirstConsumer", "The disk is made on the node of the first VM that runs with it.")
	case o.file != nil:
		imported(list, o.file)
	default:
		list.False(typeReady, "Provisioning", "The disk is being made.")
	}
}

// reasonOfFault is a reason that a disk's Ready may have: api.md of the platform
// has no other for what went wrong inside.
func reasonOfFault(f *fault.Fault) string {
	if f.Class == fault.Internal || f.Class == fault.Transient {
		return reasonProvisioningFailed
	}
	return f.Reason
}

// imported tells how far an import is.
func imported(list *condition.List, file *imagev1.Import) {
	reason, message := "Provisioning", "The file is being imported."
	switch file.GetStage() {
	case imagev1.ImportStage_Queued:
		reason, message = "ProvisioningNotStarted", "Other imports run: this one waits for its turn."
	case imagev1.ImportStage_WaitForUserUpload:
		reason, message = "WaitForUserUpload", "Send the file to one of status.imageUploadURLs."
	case imagev1.ImportStage_Retrying:
		reason, message = reasonProvisioningFailed, file.GetMessage()
	}
	list.False(typeReady, reason, message)
}
