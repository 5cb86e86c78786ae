package virtualdisk

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
)

// status says what was observed. Of the old status it takes only the times at
// which things were first seen, and the source that is no longer looked at.
func (r *Reconciler) status(disk *diskv1.VirtualDisk, o *observation) *diskv1.VirtualDiskStatus {
	meta, old := disk.GetMetadata(), disk.GetStatus()
	status := &diskv1.VirtualDiskStatus{
		Phase:                     phase(disk, o),
		StorageClassName:          o.class,
		SourceUid:                 o.image.UID,
		AttachedToVirtualMachines: attached(disk),
		Stats:                     stats(disk, o),
		Conditions:                r.conditions(disk, o),
		ObservedGeneration:        meta.GetGeneration(),
	}
	if o.volume == nil {
		status.Progress = progress(status.GetPhase(), o)
		status.DownloadSpeed = o.file.GetDownloadSpeed()
	}
	if status.GetPhase() == diskv1.DiskPhase_WaitForUserUpload {
		status.ImageUploadUrls, status.UploadCommand = o.file.GetImageUploadUrls(), o.file.GetUploadCommand()
	}
	if o.volume != nil || o.lost {
		if status.SourceUid == "" {
			status.SourceUid = old.GetSourceUid()
		}
		status.Progress = "100%"
		status.Target = &diskv1.DiskTarget{PersistentVolumeClaimName: "d8v-vd-" + meta.GetName() + "-" + meta.GetUid()}
		status.Capacity = quantity(o.record.Bytes)
	}
	if o.volume != nil {
		status.Capacity = quantity(o.volume.VirtualBytes)
	}
	return status
}

func phase(disk *diskv1.VirtualDisk, o *observation) diskv1.DiskPhase_Value {
	switch {
	case deleted(disk):
		return diskv1.DiskPhase_Terminating
	case o.lost:
		return diskv1.DiskPhase_PVCLost
	case o.volume != nil && o.wantedBytes > o.volume.VirtualBytes:
		return diskv1.DiskPhase_Resizing
	case o.volume != nil:
		return diskv1.DiskPhase_Ready
	case o.classFault != nil, o.sourceFault != nil:
		return diskv1.DiskPhase_Pending
	case o.volumeFault != nil && o.volumeFault.Reason == reasonQuotaExceeded:
		return diskv1.DiskPhase_Pending
	case o.volumeFault != nil && o.volumeFault.Class != fault.Transient:
		return diskv1.DiskPhase_Failed
	case o.awaits:
		return diskv1.DiskPhase_WaitForFirstConsumer
	}
	return importPhase(disk, o.file.GetStage())
}

func importPhase(disk *diskv1.VirtualDisk, stage imagev1.ImportStage_Value) diskv1.DiskPhase_Value {
	switch {
	case stage == imagev1.ImportStage_WaitForUserUpload:
		return diskv1.DiskPhase_WaitForUserUpload
	case stage == imagev1.ImportStage_Queued && disk.GetSpec().GetDataSource().GetType() != imagev1.DataSourceType_Upload:
		return diskv1.DiskPhase_Pending
	}
	return diskv1.DiskPhase_Provisioning // an uploaded file that waits for its turn is half the work done
}

// progress of a disk that is not made yet. The import is the first half of the
// way.
func progress(phase diskv1.DiskPhase_Value, o *observation) string {
	switch {
	case phase == diskv1.DiskPhase_Pending, phase == diskv1.DiskPhase_Terminating:
		return ""
	case o.file.GetStage() == imagev1.ImportStage_Done:
		return "50%"
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(o.file.GetProgress(), "%"), 64)
	if err != nil || percent == 0 {
		return "0%" // not known
	}
	return fmt.Sprintf("%.1f%%", percent/2)
}

func attached(disk *diskv1.VirtualDisk) []*diskv1.AttachedVirtualMachine {
	var machines []*diskv1.AttachedVirtualMachine
	for _, holder := range disk.GetMetadata().GetHolders() {
		if holder.GetKind() == kindMachine {
			mounted := holder.GetActive()
			machines = append(machines, &diskv1.AttachedVirtualMachine{Name: holder.GetName(), Mounted: &mounted})
		}
	}
	return machines
}

// stats are there once the disk is made.
func stats(disk *diskv1.VirtualDisk, o *observation) *diskv1.DiskStats {
	made := o.record.Made
	if made == nil {
		return nil
	}
	created := disk.GetMetadata().GetCreationTimestamp().AsTime()
	return &diskv1.DiskStats{CreationDuration: &diskv1.DiskCreationDuration{
		WaitingForDependencies:  between(&created, o.record.Prepared),
		WaitingForFirstConsumer: between(o.record.Prepared, o.record.Consumed),
		DvcrProvisioning:        between(o.record.Importing, o.record.Imported),
		TotalProvisioning:       between(&created, made),
	}}
}

// between is empty where one of the times is not known.
func between(from, to *time.Time) string {
	if from == nil || to == nil {
		return ""
	}
	return max(0, to.Sub(*from)).Truncate(time.Second).String()
}
