package virtualdisk_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource/etcdtest"
)

func fromURL(size string) *diskv1.VirtualDiskSpec {
	return &diskv1.VirtualDiskSpec{
		PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size},
		DataSource: &diskv1.DiskDataSource{
			Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: "http://127.0.0.1/disk.img"},
		},
	}
}

func TestStagesOfAnImportAreTheDisks(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		stage            imagev1.ImportStage_Value
		progress, reason string
		phase            diskv1.DiskPhase_Value
		ready            string
		shown            string
	}{
		{imagev1.ImportStage_Queued, "", "", diskv1.DiskPhase_Pending, "ProvisioningNotStarted", ""},
		{imagev1.ImportStage_Running, "", "", diskv1.DiskPhase_Provisioning, "Provisioning", "0%"},
		{imagev1.ImportStage_Running, "66.5%", "", diskv1.DiskPhase_Provisioning, "Provisioning", "33.2%"},
		{imagev1.ImportStage_WaitForUserUpload, "", "", diskv1.DiskPhase_WaitForUserUpload, "WaitForUserUpload", "0%"},
		{imagev1.ImportStage_Retrying, "50%", "ProvisioningFailed", diskv1.DiskPhase_Provisioning, "ProvisioningFailed", "25.0%"},
		{imagev1.ImportStage_Retrying, "", "ContainerRegistrySecretNotFound", diskv1.DiskPhase_Pending, "DatasourceIsNotReady", ""},
		{imagev1.ImportStage_Failed, "50%", "ProvisioningFailedTerminally", diskv1.DiskPhase_Failed, "ProvisioningFailedTerminally", "25.0%"},
	} {
		t.Run(test.stage.String()+test.reason, func(t *testing.T) {
			w := newWorld(t, client)
			w.disk.Spec = fromURL("")
			w.file.stage, w.file.progress, w.file.reason = test.stage, test.progress, test.reason
			if _, err := w.pass(); err != nil && !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			w.want(test.phase, "Ready", test.ready, "")
			status := w.disk.GetStatus()
			if status.GetProgress() != test.shown || status.GetDownloadSpeed().GetAvg() != "1Mi/s" {
				t.Errorf("progress %q, speed %v", status.GetProgress(), status.GetDownloadSpeed())
			}
			if told := status.GetImageUploadUrls() != nil; told != (test.phase == diskv1.DiskPhase_WaitForUserUpload) {
				t.Errorf("upload to %v", status.GetImageUploadUrls())
			}
		})
	}
}

func TestImportedFileBecomesADiskAndIsGivenBack(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = fromURL("16Mi")
	w.file.stage = imagev1.ImportStage_Running
	for range 2 {
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if w.file.begun != 1 || w.file.source.GetHttp().GetUrl() == "" {
		t.Errorf("begun %d times, from %v", w.file.begun, w.file.source)
	}
	w.file.stage = imagev1.ImportStage_Done
	w.ready()
	status := w.disk.GetStatus()
	if status.GetCapacity() != "16Mi" || status.GetProgress() != "100%" || status.GetImageUploadUrls() != nil || w.file.owner != "" {
		t.Errorf("status %v, owner %q", status, w.file.owner)
	}
	if took := status.GetStats().GetCreationDuration(); took.GetDvcrProvisioning() != "0s" || took.GetTotalProvisioning() != "3s" {
		t.Errorf("it took %v", took)
	}
	w.ready()
	if w.file.begun != 1 {
		t.Error("a disk that is made is imported again")
	}
}

func TestImportThatFitsNoDiskFails(t *testing.T) {
	client := etcdtest.Start(t)
	for message, spoil := range map[string]func(w *world){
		"the imported file is an ISO image, from which no disk can be made: attach it to the VM as an image instead": func(w *world) {
			w.file.blob.Cdrom = true
		},
		"spec.persistentVolumeClaim.size 4Mi is smaller than the imported file, which needs 8Mi": func(w *world) {
			w.disk.Spec = fromURL("4Mi")
		},
	} {
		w := newWorld(t, client)
		w.disk.Spec = fromURL("")
		w.file.stage = imagev1.ImportStage_Done
		spoil(w)
		if _, err := w.pass(); !fault.Is(err, fault.Invalid) {
			t.Fatalf("got %v", err)
		}
		w.want(diskv1.DiskPhase_Failed, "Ready", "ProvisioningFailed", message)
		w.edit(blank("1Mi")) // another spec helps
		w.ready()
		if w.file.owner != "" {
			t.Error("the import is kept")
		}
	}
}

func TestSpecThatIsChangedBeforeTheDiskIsMadeBeginsAnew(t *testing.T) {
	client := etcdtest.Start(t)
	begun := func(t *testing.T) *world {
		w := newWorld(t, client)
		w.disk.Spec = fromURL("")
		w.file.stage = imagev1.ImportStage_Running
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	t.Run("another URL", func(t *testing.T) {
		w := begun(t)
		other := fromURL("")
		other.DataSource.Http.Url = "http://127.0.0.1/other.img"
		w.edit(other)
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
		if w.file.begun != 2 || w.file.source.GetHttp().GetUrl() != "http://127.0.0.1/other.img" {
			t.Errorf("begun %d times, from %v", w.file.begun, w.file.source)
		}
	})
	t.Run("an image", func(t *testing.T) {
		w := begun(t)
		w.edit(fromImage(""))
		w.ready()
		if w.file.owner != "" || w.image.holder != "" {
			t.Errorf("kept for %q, %q", w.file.owner, w.image.holder)
		}
	})
	t.Run("an upload instead of an image", func(t *testing.T) {
		w := begun(t)
		w.edit(fromImage(""))
		w.volume.broken = fault.New(fault.Internal, "Broken", "broken") // with the image claimed
		if _, err := w.pass(); err == nil || w.image.holder == "" {
			t.Fatalf("%v, held by %q", err, w.image.holder)
		}
		w.edit(&diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{Type: imagev1.DataSourceType_Upload}})
		w.file.stage = imagev1.ImportStage_WaitForUserUpload
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
		w.want(diskv1.DiskPhase_WaitForUserUpload, "DatasourceReady", "DatasourceReady", "")
		if w.image.holder != "" {
			t.Error("the image is held for ever")
		}
	})
}

func TestImportGoesWithItsDisk(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = fromURL("")
	w.file.stage = imagev1.ImportStage_Running
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	w.file.broken = fault.New(fault.Transient, "Unavailable", "the service is away")
	if result, err := w.pass(); err == nil || result.Finalized {
		t.Fatalf("%v, %v", result, err)
	}
	w.file.broken = nil
	if result, err := w.pass(); err != nil || !result.Finalized || w.file.owner != "" || w.files() != 0 {
		t.Fatalf("%v, %v: imported for %q, %d files", result, err, w.file.owner, w.files())
	}
}

func TestDiskWaitsForAServiceThatImports(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.disk.Spec = fromURL("")
	w.file.broken = fault.New(fault.Transient, "Unavailable", "the service is away")
	if _, err := w.pass(); !fault.Is(err, fault.Transient) {
		t.Fatalf("got %v", err)
	}
	w.want(diskv1.DiskPhase_Pending, "Ready", "DatasourceIsNotReady", "the service is away")
	w.file.broken, w.file.stage = nil, imagev1.ImportStage_Done
	w.ready()
	if c := condition.Find(w.disk.GetStatus().GetConditions(), "DatasourceReady"); c != nil {
		t.Errorf("a disk that is made still has %v", c)
	}
}
