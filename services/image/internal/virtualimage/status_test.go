package virtualimage

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
)

var now = time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)

func reconciler() *Reconciler[*imagev1.VirtualImage] {
	return &Reconciler[*imagev1.VirtualImage]{
		Kind:   Namespaced(),
		Intake: &intake.Intake{Registry: intake.Registry{Host: "dvcr:5000", Prefix: "team/"}},
		Now:    func() time.Time { return now },
	}
}

func someImage() *imagev1.VirtualImage {
	return &imagev1.VirtualImage{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "ubuntu", Uid: "uid", Generation: 1},
		Spec: &imagev1.VirtualImageSpec{
			Storage:    imagev1.ImageStorage_ContainerRegistry,
			DataSource: &imagev1.DataSource{Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: "http://127.0.0.1/"}},
		},
	}
}

func TestStatusSaysWhatWasObserved(t *testing.T) {
	half := importer.Progress{ReadBytes: 282, TotalBytes: 1000, BytesPerSecond: 2 << 20, AverageBytesPerSecond: 1 << 20}
	whole := importer.Progress{ReadBytes: 1000, TotalBytes: 1000}
	lost := failure.Terminalf("SourceNotFound", "the server answered 404")
	busy := failure.Temporaryf("SourceUnavailable", nil, "the server answered 503")
	noStorage := someImage().GetSpec()
	noStorage.Storage = imagev1.ImageStorage_Kubernetes
	cases := []struct {
		name     string
		seen     observation
		phase    imagev1.ImagePhase_Value
		progress string
		ready    string
	}{
		{"an import that was asked for", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Starting}}}, imagev1.ImagePhase_Provisioning, "", "Provisioning"},
		{"one that waits for its turn", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Queued}}}, imagev1.ImagePhase_Pending, "", "ProvisioningNotStarted"},
		{"one that has begun", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Running}}}, imagev1.ImagePhase_Provisioning, "0.0%", "Provisioning"},
		{"one on its way", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Running, Progress: half}}}, imagev1.ImagePhase_Provisioning, "28.2%", "Provisioning"},
		{"one of unknown length", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Running, Progress: importer.Progress{ReadBytes: 5, TotalBytes: -1}}}}, imagev1.ImagePhase_Provisioning, "0.0%", "Provisioning"},
		{"one that has read all", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Running, Progress: whole}}}, imagev1.ImagePhase_Provisioning, "100.0%", "Provisioning"},
		{"one that failed for now", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Retrying, Progress: half, Err: busy, Next: now}}}, imagev1.ImagePhase_Provisioning, "28.2%", "ProvisioningFailed"},
		{"one that failed for good", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Failed, Err: lost}}}, imagev1.ImagePhase_Failed, "", "ProvisioningFailed"},
		{"one of an earlier spec", observation{Observation: intake.Observation{Job: &job.State{Stage: job.Stopping, Progress: half}}}, imagev1.ImagePhase_Provisioning, "", "Provisioning"},
		{"a registry that is away", observation{Observation: intake.Observation{Unseen: fault.New(fault.Transient, "RegistryUnavailable", "away")}}, imagev1.ImagePhase_Pending, "", "ProvisioningNotStarted"},
		{"storage that isn't there", observation{refusal: reconciler().supported(noStorage)}, imagev1.ImagePhase_Failed, "", "NotSupported"},
		{"the image in the registry", observation{Observation: intake.Observation{Published: &intake.Published{}, Job: &job.State{Stage: job.Done}}}, imagev1.ImagePhase_Ready, "100%", "Ready"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status := reconciler().status(someImage(), &c.seen).(*imagev1.VirtualImageStatus)
			if status.GetPhase() != c.phase || status.GetProgress() != c.progress {
				t.Errorf("%s, %q; want %s, %q", status.GetPhase(), status.GetProgress(), c.phase, c.progress)
			}
			if ready := condition.Find(status.GetConditions(), "Ready"); ready.GetReason() != c.ready || ready.GetObservedGeneration() != 1 {
				t.Errorf("Ready is %v, want reason %s", ready, c.ready)
			}
			if status.Cdrom == nil || status.GetCdrom() {
				t.Error("the column CDROM is not false")
			}
		})
	}
}

func TestReadyImageTellsItsSize(t *testing.T) {
	image := someImage()
	image.Status = &imagev1.VirtualImageStatus{DownloadSpeed: &imagev1.DownloadSpeed{
		Avg: "1Mi/s", AvgBytes: "1048576", Current: "2Mi/s", CurrentBytes: "2097152",
	}}
	seen := observation{Observation: intake.Observation{Published: &intake.Published{Artifact: dvcr.Artifact{
		Disk: dvcr.Blob{Size: 299787264}, Format: "iso", VirtualBytes: 2684354560, CDROM: true,
	}}}}
	status := reconciler().status(image, &seen).(*imagev1.VirtualImageStatus)
	size := status.GetSize()
	if size.GetStored() != "285.9Mi" || size.GetStoredBytes() != "299787264" || size.GetUnpacked() != "2.5Gi" || size.GetUnpackedBytes() != "2684354560" {
		t.Errorf("size %v", size)
	}
	if !status.GetCdrom() || status.GetFormat() != "iso" || status.GetTarget().GetRegistryUrl() != "dvcr:5000/team/vi/default/ubuntu:uid" {
		t.Errorf("status %v", status)
	}
	if speed := status.GetDownloadSpeed(); speed.GetAvg() != "1Mi/s" || speed.GetCurrent() != "" {
		t.Errorf("speed %v: the mean alone is of interest now", speed)
	}
}

func TestFailureIsNamedForProgramsAndPeople(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"classified", failure.Terminalf("BackingFile", "the image leans on another file"), "BackingFile: the image leans on another file"},
		{"with a failure to clean up", errors.Join(failure.Terminalf("BackingFile", "leans"), errors.New("secret")), "BackingFile: leans"},
		{"unclassified", errors.New("open /secret"), "the import can't go on for now; the log of the image service says why"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := observation{Observation: intake.Observation{Job: &job.State{Stage: job.Failed, Err: c.err}}}
			status := reconciler().status(someImage(), &seen).(*imagev1.VirtualImageStatus)
			if got := condition.Find(status.GetConditions(), "Ready").GetMessage(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTerminatingImageSaysWhoHoldsIt(t *testing.T) {
	image := someImage()
	image.Metadata.DeletionTimestamp = timestamppb.New(now)
	image.Metadata.Holders = []*metav1.Holder{{Kind: "VirtualMachine", Name: "linux-vm", Uid: "u", Active: true}}
	status := reconciler().status(image, &observation{Observation: intake.Observation{Published: &intake.Published{}}}).(*imagev1.VirtualImageStatus)
	inUse := condition.Find(status.GetConditions(), "InUse")
	if status.GetPhase() != imagev1.ImagePhase_Terminating || inUse.GetReason() != "AttachedToVirtualMachine" || inUse.GetMessage() == "" {
		t.Errorf("phase %s, InUse %v", status.GetPhase(), inUse)
	}
}

func TestClusterImageHasTheSameStatus(t *testing.T) {
	r := &Reconciler[*imagev1.ClusterVirtualImage]{
		Kind: Cluster(), Intake: &intake.Intake{Registry: intake.Registry{Host: "dvcr:5000"}}, Now: func() time.Time { return now },
	}
	image := &imagev1.ClusterVirtualImage{Metadata: &metav1.ObjectMeta{Name: "ubuntu", Uid: "uid", Generation: 3}}
	status := r.status(image, &observation{Observation: intake.Observation{Published: &intake.Published{}}}).(*imagev1.ClusterVirtualImageStatus)
	if status.GetPhase() != imagev1.ImagePhase_Ready || status.GetObservedGeneration() != 3 ||
		status.GetTarget().GetRegistryUrl() != "dvcr:5000/cvi/ubuntu:uid" || status.GetSize() == nil {
		t.Errorf("status %v", status)
	}
	if c := condition.Find(status.GetConditions(), "StorageClassReady"); c != nil {
		t.Errorf("%v: a cluster's image has no storage class", c)
	}
}
