package image_test

import (
	"context"
	"os"
	"strings"
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
)

func owner(name string) *metav1.Holder {
	return &metav1.Holder{Kind: "VirtualDisk", Namespace: namespace, Name: name, Uid: name + "-uid"}
}

func fromURL(url string) *imagev1.DataSource {
	return &imagev1.DataSource{Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: url}}
}

// follow returns what comes of the imports of disks.
func (s *service) follow(t *testing.T) func(what string, want func(*imagev1.Import) bool) *imagev1.Import {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := s.imports.WatchImports(ctx, &imagev1.WatchImportsRequest{OwnerKind: "VirtualDisk"})
	if err != nil {
		t.Fatal(err)
	}
	return func(what string, want func(*imagev1.Import) bool) *imagev1.Import {
		t.Helper()
		var last *imagev1.Import
		for {
			told, err := stream.Recv()
			if err != nil {
				t.Fatalf("waiting for an import to be %s: %v\nlast seen: %v", what, err, last)
			}
			if want(told) {
				return told
			}
			last = told
		}
	}
}

func (s *service) ensure(t *testing.T, name string, generation int32, source *imagev1.DataSource) *imagev1.Import {
	t.Helper()
	told, err := s.imports.EnsureImport(t.Context(), &imagev1.EnsureImportRequest{
		Owner: owner(name), Generation: generation, DataSource: source,
	})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

func at(name string, stage imagev1.ImportStage_Value) func(*imagev1.Import) bool {
	return func(i *imagev1.Import) bool { return i.GetOwner().GetName() == name && i.GetStage() == stage }
}

// leads waits until the service takes imports.
func (s *service) leads(t *testing.T) {
	t.Helper()
	for {
		_, err := s.imports.DeleteImport(t.Context(), &imagev1.DeleteImportRequest{Owner: owner("nobody")})
		if err == nil {
			return
		}
		if !fault.Is(err, fault.Transient) {
			t.Fatal(err)
		}
	}
}

func TestImportForADiskEndsWithItsBlob(t *testing.T) {
	w := newWorld(t, false)
	raw, data := qcow2(t)
	w.files.files["/disk.qcow2"] = data
	reached, open := w.hold(t)
	s := w.start(t)
	s.leads(t)
	next := s.follow(t)
	first := s.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2"))
	if first.GetStage() != imagev1.ImportStage_Queued || first.GetGeneration() != 1 {
		t.Errorf("begins as %v", first)
	}
	<-reached
	next("running", at("root", imagev1.ImportStage_Running))
	s.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2")) // changes nothing
	open()
	done := next("done", at("root", imagev1.ImportStage_Done))
	if done.GetProgress() != "100%" || done.GetBlob().GetVirtualBytes() != 16<<20 || done.GetBlob().GetFormat() != "qcow2" ||
		!strings.Contains(done.GetBlob().GetRegistryUrl(), "/vd/default/root@sha256:") {
		t.Errorf("done: %v", done)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, done.GetBlob().GetPath())
	if again := s.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2")); again.GetStage() != imagev1.ImportStage_Done {
		t.Errorf("again: %v", again)
	}

	for range 2 {
		if _, err := s.imports.DeleteImport(t.Context(), &imagev1.DeleteImportRequest{Owner: owner("root")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, found := w.published(t, "vd/default/root", "root-uid"); found {
		t.Error("the manifest is still there")
	}
}

func TestImportGoesOnForAnOwnerThatAsksTheNextProcess(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	reached, _ := w.hold(t)
	first := w.start(t)
	first.leads(t)
	first.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2"))
	<-reached
	awaitCheckpoint(t, w.staging)
	first.stop()
	w.files.gate.Store(nil)
	w.files.ranged.Store(0)
	second := w.start(t)
	second.leads(t)
	next := second.follow(t)
	second.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2"))
	next("done", at("root", imagev1.ImportStage_Done))
	if w.files.ranged.Load() == 0 {
		t.Error("the file was read from its start again")
	}
}

func TestAnotherGenerationBeginsAnew(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/old"] = qcow2(t)
	w.files.files["/new"] = w.files.files["/old"]
	reached, _ := w.hold(t)
	s := w.start(t)
	s.leads(t)
	next := s.follow(t)
	s.ensure(t, "root", 1, fromURL(w.url+"/old"))
	<-reached
	w.files.gate.Store(nil)
	s.ensure(t, "root", 2, fromURL(w.url+"/new"))
	done := next("done", at("root", imagev1.ImportStage_Done))
	if done.GetGeneration() != 2 {
		t.Errorf("generation %d is done", done.GetGeneration())
	}
}

func TestDeletionStopsAnImportAndLeavesNothing(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	reached, _ := w.hold(t)
	s := w.start(t)
	s.leads(t)
	s.ensure(t, "root", 1, fromURL(w.url+"/disk.qcow2"))
	<-reached
	if _, err := s.imports.DeleteImport(t.Context(), &imagev1.DeleteImportRequest{Owner: owner("root")}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(w.staging)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if !entry.IsDir() {
			t.Errorf("left: %s", entry.Name())
		}
	}
}

func TestImportsThatCannotBeSayWhy(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	users := containerDisk(t, data, true)
	w.uploads.URL = ""
	s := w.start(t)
	s.leads(t)
	next := s.follow(t)
	private := &imagev1.DataSource{Type: imagev1.DataSourceType_ContainerImage, ContainerImage: &imagev1.ContainerImageSource{
		Image: users.Options.Endpoint + "/disks/ubuntu:1", ImagePullSecret: &imagev1.ImagePullSecret{Name: "pull"},
	}}
	if told := s.ensure(t, "private", 1, private); told.GetStage() != imagev1.ImportStage_Retrying || told.GetReason() != "ContainerRegistrySecretNotFound" {
		t.Errorf("without its Secret: %v", told)
	}
	w.secrets.put("default/pull", users.Options.Endpoint, dvcrtest.Username, dvcrtest.Password)
	// The Secret is found without being asked again; the certificate is not trusted.
	if told := next("failed", at("private", imagev1.ImportStage_Failed)); told.GetReason() != "ImagePullFailed" || told.GetMessage() == "" {
		t.Errorf("with a certificate that isn't trusted: %v", told)
	}
	upload := &imagev1.DataSource{Type: imagev1.DataSourceType_Upload}
	if told := s.ensure(t, "upload", 1, upload); told.GetStage() != imagev1.ImportStage_Failed || told.GetReason() != "NotSupported" {
		t.Errorf("an upload where none are taken: %v", told)
	}
	s.ensure(t, "lost", 1, fromURL(w.url+"/nothing"))
	if told := next("failed", at("lost", imagev1.ImportStage_Failed)); told.GetReason() != "ProvisioningFailed" || !strings.Contains(told.GetMessage(), "SourceNotFound") {
		t.Errorf("a file that isn't there: %v", told)
	}
	_, err := s.imports.EnsureImport(t.Context(), &imagev1.EnsureImportRequest{
		Owner: &metav1.Holder{Kind: "VirtualFloppy", Namespace: namespace, Name: "a", Uid: "u"}, Generation: 1, DataSource: upload,
	})
	wantFault(t, err, fault.Invalid, fault.ReasonInvalid)
}
