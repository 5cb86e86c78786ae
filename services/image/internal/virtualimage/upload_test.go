package virtualimage

import (
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
	"orlop.dev/services/image/internal/upload"
)

func TestUploadIsTheFirstHalfOfTheWay(t *testing.T) {
	complete := upload.State{Stage: upload.Complete, KeptBytes: 1000, ReceivedBytes: 1000, LengthBytes: 1000, AverageBytesPerSecond: 1 << 20}
	timeout := upload.Failure{Reason: upload.ReasonTimeout, Message: "nobody came"}
	for _, c := range []struct {
		name     string
		upload   upload.State
		job      *job.State
		phase    imagev1.ImagePhase_Value
		progress string
		ready    string
	}{
		{"no byte yet", upload.State{Stage: upload.Waiting, LengthBytes: -1}, nil, imagev1.ImagePhase_WaitForUserUpload, "0%", "WaitForUserUpload"},
		{"a part", upload.State{Stage: upload.Receiving, ReceivedBytes: 500, LengthBytes: 1000}, nil, imagev1.ImagePhase_Provisioning, "25.0%", "Provisioning"},
		{"a part of nobody knows what", upload.State{Stage: upload.Receiving, ReceivedBytes: 500, LengthBytes: -1}, nil, imagev1.ImagePhase_Provisioning, "0.0%", "Provisioning"},
		{"all", complete, &job.State{Stage: job.Starting}, imagev1.ImagePhase_Provisioning, "50.0%", "Provisioning"},
		{
			"half of its import", complete, &job.State{Stage: job.Running, Progress: importer.Progress{ReadBytes: 500, TotalBytes: 1000}},
			imagev1.ImagePhase_Provisioning, "75.0%", "Provisioning",
		},
		{
			"a file of no use", complete, &job.State{Stage: job.Failed, Err: failure.Terminalf("ChecksumMismatch", "another file")},
			imagev1.ImagePhase_Failed, "", "ProvisioningFailed",
		},
		{"nobody came", upload.State{Stage: upload.Failed, Failure: timeout}, nil, imagev1.ImagePhase_Failed, "", "WaitForUserUploadTimeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := observation{Observation: intake.Observation{Upload: &intake.Upload{State: c.upload}, Job: c.job}}
			status := reconciler().status(someImage(), &seen).(*imagev1.VirtualImageStatus)
			if status.GetPhase() != c.phase || status.GetProgress() != c.progress {
				t.Errorf("%s, %q; want %s, %q", status.GetPhase(), status.GetProgress(), c.phase, c.progress)
			}
			if ready := condition.Find(status.GetConditions(), "Ready"); ready.GetReason() != c.ready || ready.GetMessage() == "" {
				t.Errorf("Ready is %v, want reason %s", ready, c.ready)
			}
		})
	}
}
