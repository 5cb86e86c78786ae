package virtualimage

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
)

// Types of an image's conditions (api.md of the platform, A.2).
const (
	typeDatasourceReady   = "DatasourceReady"
	typeReady             = "Ready"
	typeStorageClassReady = "StorageClassReady"
	typeInUse             = "InUse"
)

// Reasons of conditions, and of faults.
const (
	reasonReady                  = "Ready"
	reasonProvisioning           = "Provisioning"
	reasonProvisioningNotStarted = "ProvisioningNotStarted"
	reasonProvisioningFailed     = "ProvisioningFailed"
	reasonNotSupported           = "NotSupported"
)

// Paths of fields that may ask for what isn't done yet.
const (
	pathStorage = "spec.storage"
	pathSource  = "spec.dataSource.type"
)

// status says what was observed. Of the old status it takes what was measured
// while the import ran, and the times at which things were first seen.
func (r *Reconciler[T]) status(image T, o *observation) proto.Message {
	meta := image.GetMetadata()
	status := &imagev1.VirtualImageStatus{
		Phase:              phase(image, o),
		Cdrom:              proto.Bool(false),
		DownloadSpeed:      downloadSpeed(r.Kind.old(image).GetDownloadSpeed(), o),
		Conditions:         r.conditions(image, o),
		ObservedGeneration: meta.GetGeneration(),
	}
	if o.refusal == nil {
		status.Target = &imagev1.ImageTarget{RegistryUrl: r.location(image) + ":" + meta.GetUid()}
	}
	switch {
	case o.published != nil:
		status.Progress = "100%"
		status.Cdrom = proto.Bool(o.published.CDROM)
		status.Format = o.published.Format
		status.Size = size(o.published)
	case o.job != nil:
		status.Progress = progress(o.job)
	}
	return r.Kind.status(image, status)
}

// wasReady reports whether an image was last seen to be Ready.
func (r *Reconciler[T]) wasReady(image T) bool {
	old := r.Kind.old(image)
	return old.GetPhase() == imagev1.ImagePhase_Ready && old.GetObservedGeneration() == image.GetMetadata().GetGeneration()
}

func phase(image resource.Object, o *observation) imagev1.ImagePhase_Value {
	switch {
	case resource.Terminating(image):
		return imagev1.ImagePhase_Terminating
	case o.published != nil:
		return imagev1.ImagePhase_Ready
	case o.refusal != nil:
		return imagev1.ImagePhase_Failed
	case o.job == nil, o.job.Stage == job.Queued:
		return imagev1.ImagePhase_Pending
	case o.job.Stage == job.Failed:
		return imagev1.ImagePhase_Failed
	}
	return imagev1.ImagePhase_Provisioning
}

func size(found *published) *imagev1.ImageSize {
	return &imagev1.ImageSize{
		Stored: human(found.Disk.Size), StoredBytes: strconv.FormatInt(found.Disk.Size, 10),
		Unpacked: human(found.VirtualBytes), UnpackedBytes: strconv.FormatInt(found.VirtualBytes, 10),
	}
}

// progress is empty until the import runs.
func progress(state *job.State) string {
	read := state.Progress.ReadBytes
	switch {
	case state.Stage == job.Stopping, read == 0 && state.Stage != job.Running:
		return ""
	}
	return percent(read, state.Progress.TotalBytes)
}

// downloadSpeed keeps the mean of an import that is over.
func downloadSpeed(old *imagev1.DownloadSpeed, o *observation) *imagev1.DownloadSpeed {
	switch {
	case o.published != nil && old != nil:
		return &imagev1.DownloadSpeed{Avg: old.GetAvg(), AvgBytes: old.GetAvgBytes()}
	case o.job == nil || o.job.Progress == importer.Progress{}:
		return nil
	}
	p := o.job.Progress
	speed := &imagev1.DownloadSpeed{
		Avg: human(p.AverageBytesPerSecond) + "/s", AvgBytes: strconv.FormatInt(p.AverageBytesPerSecond, 10),
	}
	if o.job.Stage == job.Running {
		speed.Current = human(p.BytesPerSecond) + "/s"
		speed.CurrentBytes = strconv.FormatInt(p.BytesPerSecond, 10)
	}
	return speed
}

func (r *Reconciler[T]) conditions(image T, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: r.Kind.old(image).GetConditions(), Generation: image.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	if refuses(o.refusal, pathSource) {
		list.False(typeDatasourceReady, reasonNotSupported, o.refusal.Message)
	} else {
		list.True(typeDatasourceReady, "DatasourceReady", "")
	}
	ready(&list, image, o)
	if r.Kind.classes {
		if refuses(o.refusal, pathStorage) {
			list.False(typeStorageClassReady, reasonNotSupported, o.refusal.Message)
		} else {
			list.True(typeStorageClassReady, "DVCRTypeUsed", "The image is kept in DVCR, which needs no storage class.")
		}
	}
	inUse(&list, image)
	return list.Conditions()
}

func refuses(refusal *fault.Fault, path string) bool {
	return refusal != nil && len(refusal.Fields) > 0 && refusal.Fields[0].Path == path
}

func ready(list *condition.List, image resource.Object, o *observation) {
	switch {
	case o.unseen != nil && resource.Terminating(image):
		list.False(typeReady, reasonProvisioningFailed, "The image can't be removed for now: "+o.unseen.Message+".")
	case o.published != nil:
		list.True(typeReady, reasonReady, "")
	case o.refusal != nil:
		list.False(typeReady, reasonNotSupported, o.refusal.Message)
	case o.unseen != nil:
		list.False(typeReady, reasonProvisioningNotStarted, "The import waits: "+o.unseen.Message+".")
	case o.job == nil:
		list.False(typeReady, reasonProvisioningNotStarted, "")
	default:
		imported(list, o.job)
	}
}

// imported tells how far an import is.
func imported(list *condition.List, state *job.State) {
	switch state.Stage {
	case job.Queued:
		list.False(typeReady, reasonProvisioningNotStarted, "Other imports run: this one waits for its turn.")
	case job.Failed:
		list.False(typeReady, reasonProvisioningFailed, job.Explain(state.Err))
	case job.Retrying:
		list.False(typeReady, reasonProvisioningFailed,
			job.Explain(state.Err)+"; tried again at "+state.Next.UTC().Format(time.TimeOnly)+" UTC")
	case job.Stopping:
		list.False(typeReady, reasonProvisioning, "The import is being stopped.")
	default:
		list.False(typeReady, reasonProvisioning, "The image is being imported.")
	}
}

func inUse(list *condition.List, image resource.Object) {
	holder := activeHolder(image)
	switch {
	case holder == nil:
		list.False(typeInUse, "NotInUse", "")
	case holder.GetKind() == kindVirtualMachine:
		list.True(typeInUse, "AttachedToVirtualMachine", "VirtualMachine "+holder.GetName()+" uses the image.")
	default:
		list.True(typeInUse, "UsedForDiskCreation", holder.GetKind()+" "+holder.GetName()+" is made from the image.")
	}
}
