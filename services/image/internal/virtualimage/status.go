package virtualimage

import (
	"strings"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
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
		Progress:           o.Progress(),
		DownloadSpeed:      o.DownloadSpeed(r.Kind.old(image).GetDownloadSpeed()),
		Conditions:         r.conditions(image, o),
		ObservedGeneration: meta.GetGeneration(),
	}
	switch {
	case o.refusal != nil:
	case onVolume(r.Kind.spec(image)):
		status.StorageClassName = o.volume.GetStorageClassName()
		if claim := o.volume.GetPersistentVolumeClaimName(); claim != "" {
			status.Target = &imagev1.ImageTarget{PersistentVolumeClaimName: claim}
		}
	default:
		status.Target = &imagev1.ImageTarget{RegistryUrl: r.Intake.Registry.Location(r.Kind.repository(meta)) + ":" + meta.GetUid()}
	}
	if found := o.Published; found != nil {
		status.Cdrom = proto.Bool(found.CDROM)
		status.Format = found.Format
		status.Size = found.Size()
		status.SourceUid = found.SourceUID
	} else if o.Upload != nil {
		status.ImageUploadUrls, status.UploadCommand = o.Upload.URLs, o.Upload.Command
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
	case o.Published != nil:
		return imagev1.ImagePhase_Ready
	case o.lost():
		return imagev1.ImagePhase_PVCLost
	case o.Lost:
		return imagev1.ImagePhase_ImageLost
	case o.refusal != nil:
		return imagev1.ImagePhase_Failed
	case o.classFault != nil:
		return imagev1.ImagePhase_Pending
	case o.uploading():
		return uploadPhase(o.Upload)
	case o.Waits != nil && o.Waits.Class == fault.Invalid:
		return imagev1.ImagePhase_Failed
	case o.Job == nil, o.Job.Stage == job.Queued:
		return imagev1.ImagePhase_Pending
	case o.Job.Stage == job.Failed:
		return imagev1.ImagePhase_Failed
	}
	return imagev1.ImagePhase_Provisioning
}

func (r *Reconciler[T]) conditions(image T, o *observation) []*metav1.Condition {
	list := condition.List{
		Old: r.Kind.old(image).GetConditions(), Generation: image.GetMetadata().GetGeneration(), Now: r.Now(),
	}
	switch {
	case refuses(o.refusal, pathSource):
		list.False(typeDatasourceReady, intake.ReasonNotSupported, o.refusal.Message)
	case o.Waits != nil:
		list.False(typeDatasourceReady, o.Waits.Reason, o.Waits.Message)
	default:
		list.True(typeDatasourceReady, "DatasourceReady", "")
	}
	r.isReady(&list, image, o)
	if r.Kind.classes {
		classReady(&list, onVolume(r.Kind.spec(image)), o)
	}
	inUse(&list, image)
	return list.Conditions()
}

func classReady(list *condition.List, wanted bool, o *observation) {
	switch {
	case refuses(o.refusal, pathStorage):
		list.False(typeStorageClassReady, intake.ReasonNotSupported, o.refusal.Message)
	case o.classFault != nil:
		list.False(typeStorageClassReady, "StorageClassNotFound", o.classFault.Message)
	case !wanted:
		list.True(typeStorageClassReady, "DVCRTypeUsed", "The image is kept in DVCR, which needs no storage class.")
	case o.volume != nil:
		list.True(typeStorageClassReady, "StorageClassReady", "")
	}
}

// lost reports whether the volume of an image was there and is not any more.
func (o *observation) lost() bool { return o.volume.GetLost() }

func refuses(refusal *fault.Fault, path string) bool {
	return refusal != nil && len(refusal.Fields) > 0 && refusal.Fields[0].Path == path
}

func (r *Reconciler[T]) isReady(list *condition.List, image resource.Object, o *observation) {
	switch {
	case o.Unseen != nil && resource.Terminating(image):
		list.False(typeReady, reasonProvisioningFailed, "The image can't be removed for now: "+o.Unseen.Message+".")
	case o.Published != nil:
		list.True(typeReady, reasonReady, "")
	case o.lost():
		list.False(typeReady, "PVCLost", "The image's data is gone from the storage. It is used again if it comes back.")
	case o.Lost:
		list.False(typeReady, "ImageLost", "The image is gone from DVCR. It is used again if it comes back; otherwise delete it and create it anew.")
	case o.refusal != nil:
		list.False(typeReady, intake.ReasonNotSupported, o.refusal.Message)
	case o.classFault != nil:
		list.False(typeReady, "StorageClassNotReady", o.classFault.Message)
	case o.uploading():
		list.False(typeReady, uploadReason(o.Upload), o.Upload.Explain())
	case o.Waits != nil && o.Waits.Class == fault.Invalid:
		list.False(typeReady, o.Waits.Reason, o.Waits.Message)
	case o.Waits != nil:
		list.False(typeReady, r.Kind.waiting, o.Waits.Message)
	case o.Unseen != nil:
		list.False(typeReady, reasonProvisioningNotStarted, "The import waits: "+o.Unseen.Message+".")
	case o.Job == nil:
		list.False(typeReady, reasonProvisioningNotStarted, "")
	default:
		r.imported(list, o.Job)
	}
}

// imported tells how far an import is.
func (r *Reconciler[T]) imported(list *condition.List, state *job.State) {
	switch state.Stage {
	case job.Queued:
		list.False(typeReady, reasonProvisioningNotStarted, "Other imports run: this one waits for its turn.")
	case job.Failed, job.Retrying:
		list.False(typeReady, r.failed(state), intake.Failure(state))
	case job.Stopping:
		list.False(typeReady, reasonProvisioning, "The import is being stopped.")
	default:
		list.False(typeReady, reasonProvisioning, "The image is being imported.")
	}
}

// failed is the reason of an import that failed: some kinds tell a registry's
// failures from others.
func (r *Reconciler[T]) failed(state *job.State) string {
	if intake.FailedToPull(state) {
		return r.Kind.pulling
	}
	return reasonProvisioningFailed
}

func inUse(list *condition.List, image resource.Object) {
	machines, others := activeHolders(image)
	switch {
	case len(machines) > 0:
		list.True(typeInUse, "AttachedToVirtualMachine", "Used by VirtualMachine "+strings.Join(machines, ", ")+".")
	case len(others) > 0:
		list.True(typeInUse, "UsedForDiskCreation", "Being used for "+strings.Join(others, ", ")+".")
	default:
		list.False(typeInUse, "NotInUse", "")
	}
}
