package image_test

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

func uploadedImage(name string) *imagev1.VirtualImage {
	i := newImage(name, "")
	i.Spec.DataSource = &imagev1.DataSource{Type: imagev1.DataSourceType_Upload}
	return i
}

// awaitToken waits until an image takes a file.
func awaitToken(t *testing.T, s *service, name string) string {
	t.Helper()
	i, _ := awaitPhase(t, s, name, imagev1.ImagePhase_WaitForUserUpload)
	return path.Base(i.GetStatus().GetImageUploadUrls().GetExternal())
}

// sendPart sends data to an upload, from its end on.
func sendPart(t *testing.T, s *service, token string, data []byte) *imagev1.Upload {
	t.Helper()
	state, err := s.uploads.GetUpload(t.Context(), &imagev1.GetUploadRequest{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.uploads.WriteUpload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for first := true; len(data) > 0; first = false {
		n := min(len(data), 512<<10)
		message := &imagev1.WriteUploadRequest{Data: data[:n]}
		if first {
			message.Token, message.Offset = token, state.GetOffset()
		}
		if err := stream.Send(message); err != nil {
			break // the answer says why
		}
		data = data[n:]
	}
	if state, err = stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	return state
}

func finish(t *testing.T, s *service, token string) {
	t.Helper()
	if _, err := s.uploads.FinishUpload(t.Context(), &imagev1.FinishUploadRequest{Token: token}); err != nil {
		t.Fatal(err)
	}
}

// wantNoUpload checks that nothing is left of uploads but, if any, a reason.
func wantNoUpload(t *testing.T, w *world, files int) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(w.staging, "uploads"))
	if err != nil || len(left) != files {
		t.Errorf("left of the upload: %v, %v", left, err)
	}
}

func TestUploadedImageBecomesReadyAlsoAfterARestart(t *testing.T) {
	w := newWorld(t, false)
	raw, data := qcow2(t)
	s := w.start(t)
	made := create(t, s, uploadedImage("some-image"))
	waiting, _ := awaitPhase(t, s, "some-image", imagev1.ImagePhase_WaitForUserUpload)
	status := waiting.GetStatus()
	url := status.GetImageUploadUrls().GetExternal()
	token := path.Base(url)
	if url != "https://gateway:1234/upload/"+token || len(token) < 43 || status.GetImageUploadUrls().GetInCluster() != url {
		t.Errorf("the addresses are %v", status.GetImageUploadUrls())
	}
	if want := "curl --cacert '/tmp/our ca.crt' " + url + " -T FILE"; status.GetUploadCommand() != want || status.GetProgress() != "0%" {
		t.Errorf("the command is %q, progress %q", status.GetUploadCommand(), status.GetProgress())
	}
	ready := condition.Find(status.GetConditions(), "Ready")
	if ready.GetReason() != "WaitForUserUpload" || ready.GetStatus() != metav1.ConditionStatus_False {
		t.Errorf("Ready is %v", ready)
	}

	length := int64(len(data))
	if _, err := s.uploads.BeginUpload(t.Context(), &imagev1.BeginUploadRequest{Token: token, Length: &length}); err != nil {
		t.Fatal(err)
	}
	sendPart(t, s, token, data[:length/2])
	_, _ = await(t, s.images, key("some-image"), "half sent", func(i *imagev1.VirtualImage) bool {
		return i.GetStatus().GetPhase() == imagev1.ImagePhase_Provisioning && i.GetStatus().GetProgress() == "25.0%" &&
			i.GetStatus().GetImageUploadUrls().GetExternal() == url
	})

	s.stop()
	s = w.start(t)
	s.leads(t)
	if state := sendPart(t, s, token, data[length/2:]); state.GetState() != imagev1.UploadState_Complete {
		t.Errorf("the whole file is %v", state)
	}
	image, _ := awaitPhase(t, s, "some-image", imagev1.ImagePhase_Ready)
	if got := image.GetStatus(); got.GetImageUploadUrls() != nil || got.GetUploadCommand() != "" || got.GetProgress() != "100%" || got.GetFormat() != "qcow2" {
		t.Errorf("status %v", got)
	}
	blob := new(imagev1.Blob)
	holder := &metav1.Holder{Kind: "VirtualDisk", Namespace: namespace, Name: "root", Uid: "u", Active: true}
	if err := s.images.Claim(t.Context(), key("some-image"), holder, blob); err != nil {
		t.Fatal(err)
	}
	if string(read(t, blob.GetPath())) != string(data) {
		t.Errorf("the image of %s is not what was sent (a disk of %d bytes)", made.GetMetadata().GetUid(), len(raw))
	}
	wantNoUpload(t, w, 0)
	if _, err := s.uploads.GetUpload(t.Context(), &imagev1.GetUploadRequest{Token: token}); !fault.Is(err, fault.NotFound) {
		t.Errorf("the token is still known: %v", err)
	}
}

func TestUploadOfAnotherFileThanThatOfTheChecksumFails(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	s := w.start(t)
	wanted := uploadedImage("checked")
	wanted.Spec.DataSource.Upload = &imagev1.UploadSource{Checksum: &imagev1.Checksum{Sha256: strings.Repeat("0", 64)}}
	create(t, s, wanted)
	token := awaitToken(t, s, "checked")
	sendPart(t, s, token, data)
	finish(t, s, token)
	failed := func(i *imagev1.VirtualImage) bool {
		ready := condition.Find(i.GetStatus().GetConditions(), "Ready")
		return i.GetStatus().GetPhase() == imagev1.ImagePhase_Failed && i.GetStatus().GetImageUploadUrls() == nil &&
			strings.Contains(ready.GetMessage(), "ChecksumMismatch")
	}
	await(t, s.images, key("checked"), "failed", failed)

	// What was wrong is not asked for again, until another thing is wanted.
	s.stop()
	s = w.start(t)
	await(t, s.images, key("checked"), "failed", failed)
	wantNoUpload(t, w, 1)
	if _, err := s.images.Update(t.Context(), uploadedImage("checked"), resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	token = awaitToken(t, s, "checked")
	sendPart(t, s, token, data)
	finish(t, s, token)
	awaitPhase(t, s, "checked", imagev1.ImagePhase_Ready)
}

func TestImageThatNobodyUploadsFails(t *testing.T) {
	w := newWorld(t, false)
	w.uploads.Timeout = 300 * time.Millisecond
	s := w.start(t)
	create(t, s, uploadedImage("forgotten"))
	i, _ := awaitPhase(t, s, "forgotten", imagev1.ImagePhase_Failed)
	ready := condition.Find(i.GetStatus().GetConditions(), "Ready")
	if ready.GetReason() != "WaitForUserUploadTimeout" || i.GetStatus().GetImageUploadUrls() != nil || i.GetStatus().GetUploadCommand() != "" {
		t.Errorf("status %v", i.GetStatus())
	}
}

func TestUploadGoesWithItsImage(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	w.files.files["/disk.qcow2"] = data
	s := w.start(t)
	for _, name := range []string{"deleted", "changed"} {
		create(t, s, uploadedImage(name))
		sendPart(t, s, awaitToken(t, s, name), data[:100])
	}
	if _, err := s.images.Delete(t.Context(), key("deleted"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := newImage("changed", w.url+"/disk.qcow2")
	if _, err := s.images.Update(t.Context(), changed, resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	awaitPhase(t, s, "changed", imagev1.ImagePhase_Ready)
	awaitGone(t, s.images, key("deleted"))
	wantNoUpload(t, w, 0)
}

func TestClusterImageIsUploaded(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	s := w.start(t)
	_, err := s.cluster.Create(t.Context(), &imagev1.ClusterVirtualImage{
		Metadata: &metav1.ObjectMeta{Name: "shared"},
		Spec: &imagev1.ClusterVirtualImageSpec{DataSource: &imagev1.ClusterDataSource{
			Type: imagev1.DataSourceType_Upload, Upload: &imagev1.UploadSource{Checksum: &imagev1.Checksum{Sha256: digest.FromBytes(data).Encoded()}},
		}},
	}, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	phase := func(want imagev1.ImagePhase_Value) func(*imagev1.ClusterVirtualImage) bool {
		return func(i *imagev1.ClusterVirtualImage) bool { return i.GetStatus().GetPhase() == want }
	}
	i, _ := await(t, s.cluster, resource.Key{Name: "shared"}, "waiting", phase(imagev1.ImagePhase_WaitForUserUpload))
	token := path.Base(i.GetStatus().GetImageUploadUrls().GetExternal())
	sendPart(t, s, token, data)
	finish(t, s, token)
	await(t, s.cluster, resource.Key{Name: "shared"}, "Ready", phase(imagev1.ImagePhase_Ready))
}
