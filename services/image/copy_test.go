package image_test

import (
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

func TestImageFromAnotherMovesNoData(t *testing.T) {
	w := newWorld(t, false)
	raw, data := qcow2(t)
	w.files.files["/disk.qcow2"] = data
	s := w.start(t)
	source := create(t, s, newImage("source", w.url+"/disk.qcow2"))
	awaitPhase(t, s, "source", imagev1.ImagePhase_Ready)

	before := w.moved.bytes.Load()
	made, err := s.cluster.Create(t.Context(), &imagev1.ClusterVirtualImage{
		Metadata: &metav1.ObjectMeta{Name: "shared"},
		Spec: &imagev1.ClusterVirtualImageSpec{DataSource: &imagev1.ClusterDataSource{
			Type:      imagev1.DataSourceType_ObjectRef,
			ObjectRef: &imagev1.ClusterObjectRef{Kind: imagev1.ObjectRefKind_VirtualImage, Name: "source", Namespace: namespace},
		}},
	}, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	shared, _ := await(t, s.cluster, resource.Key{Name: "shared"}, "Ready", func(i *imagev1.ClusterVirtualImage) bool {
		return i.GetStatus().GetPhase() == imagev1.ImagePhase_Ready
	})
	back := newImage("back", "")
	back.Spec.DataSource = from(imagev1.ObjectRefKind_ClusterVirtualImage, "shared")
	create(t, s, back)
	image, _ := awaitPhase(t, s, "back", imagev1.ImagePhase_Ready)
	if moved := w.moved.bytes.Load() - before; moved > 64<<10 {
		t.Errorf("two copies of %d bytes moved %d", len(data), moved)
	}
	if got := shared.GetStatus().GetSourceUid(); got != source.GetMetadata().GetUid() {
		t.Errorf("sourceUID %q, want that of the image", got)
	}
	if got := image.GetStatus().GetSourceUid(); got != made.GetMetadata().GetUid() {
		t.Errorf("sourceUID %q, want that of the cluster's image", got)
	}
	if image.GetStatus().GetSize().GetUnpacked() != "16Mi" || image.GetStatus().GetFormat() != "qcow2" {
		t.Errorf("status %v", image.GetStatus())
	}

	// The copies are images of their own.
	for _, name := range []string{"source"} {
		if _, err := s.images.Delete(t.Context(), key(name), resource.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, s.images, key(name))
	}
	blob := new(imagev1.Blob)
	if err := s.images.Claim(t.Context(), key("back"), &metav1.Holder{Kind: "VirtualDisk", Uid: "u"}, blob); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, blob.GetPath())
}

func TestImageWaitsForTheOneItIsMadeFrom(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	reached, open := w.hold(t)
	s := w.start(t)
	for name, kind := range map[string]imagev1.ObjectRefKind_Value{
		"ImageNotReady": imagev1.ObjectRefKind_VirtualImage, "ClusterImageNotReady": imagev1.ObjectRefKind_ClusterVirtualImage,
	} {
		image := newImage(map[bool]string{true: "copy", false: "shared-copy"}[name == "ImageNotReady"], "")
		image.Spec.DataSource = from(kind, "source")
		create(t, s, image)
		waiting, _ := await(t, s.images, resource.KeyOf(image), "waiting", func(i *imagev1.VirtualImage) bool {
			return datasourceReady(i).GetReason() == name
		})
		if waiting.GetStatus().GetPhase() != imagev1.ImagePhase_Pending || readyOf(waiting).GetReason() != "DatasourceNotReady" ||
			condition.Find(waiting.GetStatus().GetConditions(), "DatasourceReady").GetStatus() != metav1.ConditionStatus_False {
			t.Errorf("status %v", waiting.GetStatus())
		}
	}
	create(t, s, newImage("source", w.url+"/disk.qcow2"))
	<-reached
	open()
	// Well before anything is looked at again by the clock.
	image, _ := awaitPhase(t, s, "copy", imagev1.ImagePhase_Ready)
	if ready := datasourceReady(image); ready.GetStatus() != metav1.ConditionStatus_True {
		t.Errorf("DatasourceReady: %v", ready)
	}
}

func TestCopyIsMadeAnewForAnotherSource(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	s := w.start(t)
	create(t, s, newImage("source", w.url+"/disk.qcow2"))
	awaitPhase(t, s, "source", imagev1.ImagePhase_Ready)
	image := newImage("copy", "")
	image.Spec.DataSource = from(imagev1.ObjectRefKind_VirtualImage, "nothing")
	create(t, s, image)
	waiting, _ := await(t, s.images, key("copy"), "waiting", func(i *imagev1.VirtualImage) bool {
		return datasourceReady(i).GetReason() == "ImageNotReady"
	})
	waiting.Spec.DataSource = from(imagev1.ObjectRefKind_VirtualImage, "source")
	waiting.Metadata.ResourceVersion = ""
	if _, err := s.images.Update(t.Context(), waiting, resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	awaitPhase(t, s, "copy", imagev1.ImagePhase_Ready)
}

func TestImageThatIsGoneFromDVCRIsLostUntilItComesBack(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	s := w.start(t)
	image := create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	repository, tag := w.registry.Repository(t, "vi/default/ubuntu"), image.GetMetadata().GetUid()
	artifact, _, err := repository.Get(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := repository.Delete(t.Context(), tag); err != nil {
		t.Fatal(err)
	}
	touch(t, s, "ubuntu", "gone")
	lost, _ := awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_ImageLost)
	if reason := readyOf(lost).GetReason(); reason != "ImageLost" {
		t.Errorf("Ready's reason is %s", reason)
	}
	err = s.images.Claim(t.Context(), key("ubuntu"), &metav1.Holder{Kind: "VirtualDisk", Uid: "u"}, new(imagev1.Blob))
	wantFault(t, err, fault.NotReady, "ImageNotReady")
	lost.Metadata.ResourceVersion = ""
	lost.Spec.DataSource.Http.Url = w.url + "/other"
	if _, err := s.images.Update(t.Context(), lost, resource.UpdateOptions{Mask: []string{"spec"}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a lost image is made another one: %v", err)
	}
	if _, err := repository.Push(t.Context(), tag, artifact); err != nil {
		t.Fatal(err)
	}
	touch(t, s, "ubuntu", "back")
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
}
