package importserver

import (
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
	"orlop.dev/services/image/internal/upload"
)

// Reasons of imports that failed, in the words of a disk's conditions.
const (
	reasonFailed     = "ProvisioningFailed"
	reasonPullFailed = "ImagePullFailed"
)

// tell says what was observed in the words of the API.
func tell(owner *metav1.Holder, w intake.Wish, o *intake.Observation, registry intake.Registry) *imagev1.Import {
	told := &imagev1.Import{
		Owner: owner, Generation: w.Version,
		Stage: imagev1.ImportStage_Queued, Progress: o.Progress(), DownloadSpeed: o.DownloadSpeed(nil),
	}
	switch {
	case o.Published != nil:
		told.Stage, told.Blob = imagev1.ImportStage_Done, registry.Blob(w.Repository, o.Published)
	case o.Waits != nil:
		unready(told, o.Waits)
	case o.Unseen != nil:
		unready(told, o.Unseen)
	case o.Job != nil:
		worked(told, o.Job)
	case o.Upload != nil:
		uploaded(told, o.Upload)
	}
	return told
}

func unready(told *imagev1.Import, f *fault.Fault) {
	told.Stage, told.Reason, told.Message = imagev1.ImportStage_Retrying, f.Reason, f.Message
	if f.Class == fault.Invalid {
		told.Stage = imagev1.ImportStage_Failed
	}
}

func worked(told *imagev1.Import, state *job.State) {
	switch state.Stage {
	case job.Running:
		told.Stage = imagev1.ImportStage_Running
	case job.Retrying:
		told.Stage = imagev1.ImportStage_Retrying
	case job.Failed:
		told.Stage = imagev1.ImportStage_Failed
	default:
		return
	}
	if told.Message = intake.Failure(state); told.Message == "" {
		return
	}
	told.Reason = reasonFailed
	if intake.FailedToPull(state) {
		told.Reason = reasonPullFailed
	}
}

func uploaded(told *imagev1.Import, u *intake.Upload) {
	told.ImageUploadUrls, told.UploadCommand = u.URLs, u.Command
	switch u.Stage {
	case upload.Waiting:
		told.Stage = imagev1.ImportStage_WaitForUserUpload
	case upload.Failed:
		told.Stage, told.Reason, told.Message = imagev1.ImportStage_Failed, u.Failure.Reason, u.Failure.Message
	default:
		told.Stage = imagev1.ImportStage_Running
	}
}
