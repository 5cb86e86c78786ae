package virtualimage

import (
	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/upload"
)

const reasonWaitForUserUpload = "WaitForUserUpload"

// uploading reports whether the user's file is what an image waits for, or what
// it failed at.
func (o *observation) uploading() bool {
	return o.Upload != nil && o.Job == nil && o.Upload.Stage != upload.Complete
}

func uploadPhase(u *intake.Upload) imagev1.ImagePhase_Value {
	switch u.Stage {
	case upload.Waiting:
		return imagev1.ImagePhase_WaitForUserUpload
	case upload.Failed:
		return imagev1.ImagePhase_Failed
	}
	return imagev1.ImagePhase_Provisioning
}

// uploadReason is that of the condition Ready.
func uploadReason(u *intake.Upload) string {
	switch u.Stage {
	case upload.Waiting:
		return reasonWaitForUserUpload
	case upload.Failed:
		return u.Failure.Reason
	}
	return reasonProvisioning
}
