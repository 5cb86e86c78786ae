package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
)

var progressForm = regexp.MustCompile(`^(|\d+\.\d%)$`)

func TestImageFromHTTPBecomesReady(t *testing.T) {
	w := newWorld(t, true)
	raw, data := qcow2(t)
	w.files.files["/disk.qcow2"] = data
	s := w.start(t)
	made := create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	image, before := awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	for _, earlier := range before {
		status := earlier.GetStatus()
		if status == nil {
			continue
		}
		if status.Cdrom == nil || status.GetCdrom() || !progressForm.MatchString(status.GetProgress()) ||
			status.GetPhase() != imagev1.ImagePhase_Provisioning {
			t.Errorf("before Ready the columns were %v", status)
		}
	}
	status, uid := image.GetStatus(), made.GetMetadata().GetUid()
	if status.GetProgress() != "100%" || status.Cdrom == nil || status.GetCdrom() || status.GetFormat() != "qcow2" {
		t.Errorf("status %v", status)
	}
	if want := w.registry.Options.Endpoint + "/vi/default/ubuntu:" + uid; status.GetTarget().GetRegistryUrl() != want {
		t.Errorf("registryURL %s, want %s", status.GetTarget().GetRegistryUrl(), want)
	}
	size := status.GetSize()
	if size.GetUnpacked() != "16Mi" || size.GetUnpackedBytes() != "16777216" || !strings.HasPrefix(size.GetStored(), "8") || !strings.HasSuffix(size.GetStored(), "Mi") {
		t.Errorf("size %v", size)
	}
	for name, reason := range map[string]string{"Ready": "Ready", "DatasourceReady": "DatasourceReady", "StorageClassReady": "DVCRTypeUsed"} {
		c := condition.Find(status.GetConditions(), name)
		if c.GetStatus() != metav1.ConditionStatus_True || c.GetReason() != reason || c.GetObservedGeneration() != 1 {
			t.Errorf("condition %s: %v", name, c)
		}
	}
	blob := new(imagev1.Blob)
	holder := &metav1.Holder{Kind: "VirtualDisk", Namespace: namespace, Name: "root", Uid: "u", Active: true}
	if err := s.images.Claim(t.Context(), key("ubuntu"), holder, blob); err != nil {
		t.Fatal(err)
	}
	if blob.GetFormat() != "qcow2" || blob.GetVirtualBytes() != 16<<20 || blob.GetStoredBytes() == 0 || blob.GetCdrom() ||
		!strings.Contains(blob.GetRegistryUrl(), "/vi/default/ubuntu@sha256:") {
		t.Errorf("blob %v", blob)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, blob.GetPath())
}

func TestImageThatIsNotThereFails(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	s := w.start(t)
	create(t, s, newImage("lost", w.url+"/nothing"))
	image, _ := awaitPhase(t, s, "lost", imagev1.ImagePhase_Failed)
	ready := readyOf(image)
	if ready.GetStatus() != metav1.ConditionStatus_False || ready.GetReason() != "ProvisioningFailed" || !strings.Contains(ready.GetMessage(), "SourceNotFound") {
		t.Errorf("Ready: %v", ready)
	}
	err := s.images.Claim(t.Context(), key("lost"), &metav1.Holder{Kind: "VirtualDisk", Uid: "u"}, new(imagev1.Blob))
	wantFault(t, err, fault.NotReady, "ImageNotReady")

	image.Spec.DataSource.Http.Url = w.url + "/disk.qcow2"
	if _, err := s.images.Update(t.Context(), image, resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	image, _ = awaitPhase(t, s, "lost", imagev1.ImagePhase_Ready)

	image.Spec.DataSource.Http.Url = w.url + "/nothing"
	_, err = s.images.Update(t.Context(), image, resource.UpdateOptions{Mask: []string{"spec"}})
	wantFault(t, err, fault.Invalid, fault.ReasonInvalid)
	if f := fault.From(err); len(f.Fields) != 1 || f.Fields[0].Path != "spec.dataSource" {
		t.Errorf("refused %+v", f.Fields)
	}
}

func TestWhatIsNotSupportedIsNamed(t *testing.T) {
	w := newWorld(t, false)
	s := w.start(t)
	volume := newImage("volume", w.url)
	volume.Spec.Storage = imagev1.ImageStorage_PersistentVolumeClaim
	disk := newImage("disk", w.url)
	disk.Spec.DataSource = from(imagev1.ObjectRefKind_VirtualDisk, "root")
	for want, i := range map[string]*imagev1.VirtualImage{
		"spec.storage PersistentVolumeClaim": volume, "spec.dataSource.objectRef.kind VirtualDisk": disk,
	} {
		create(t, s, i)
		failed, _ := awaitPhase(t, s, i.GetMetadata().GetName(), imagev1.ImagePhase_Failed)
		if ready := readyOf(failed); ready.GetReason() != "NotSupported" || !strings.Contains(ready.GetMessage(), want) {
			t.Errorf("Ready: %v, want %q named", ready, want)
		}
		if _, err := s.images.Delete(t.Context(), key(i.GetMetadata().GetName()), resource.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, s.images, key(i.GetMetadata().GetName()))
	}
}

func TestNamesWithDotsAreDenied(t *testing.T) {
	s := newWorld(t, false).start(t)
	_, err := s.images.Create(t.Context(), newImage("ubuntu-22.04", "http://127.0.0.1/"), resource.WriteOptions{})
	wantFault(t, err, fault.Invalid, fault.ReasonInvalid)
	if f := fault.From(err); len(f.Fields) != 1 || f.Fields[0].Path != "metadata.name" {
		t.Errorf("refused %+v", f.Fields)
	}
}

func TestBrokenConnectionsAreNoFailures(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	broken := func(_ context.Context, sent int) error {
		if sent > 3<<20 {
			return errors.New("broken")
		}
		return nil
	}
	w.files.gate.Store(&broken)
	s := w.start(t)
	create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	if w.files.ranged.Load() < 2 {
		t.Errorf("%d requests for the rest of the file", w.files.ranged.Load())
	}
}

func TestFailuresThatMayPassAreShownAndTriedAgain(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	w.files.fail.Store(503)
	s := w.start(t)
	create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	image, _ := await(t, s.images, key("ubuntu"), "told of", func(i *imagev1.VirtualImage) bool {
		return readyOf(i).GetReason() == "ProvisioningFailed"
	})
	if image.GetStatus().GetPhase() != imagev1.ImagePhase_Provisioning || !strings.Contains(readyOf(image).GetMessage(), "SourceUnavailable") {
		t.Errorf("status %v", image.GetStatus())
	}
	w.files.fail.Store(0)
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
}

// hold stops each file that is served in its middle, until open. reached is closed
// when the first one is there.
func (w *world) hold(t *testing.T) (reached <-chan struct{}, open func()) {
	t.Helper()
	const middle = 5 << 20
	at, opened := make(chan struct{}), make(chan struct{})
	var once sync.Once
	gate := func(ctx context.Context, sent int) error {
		if sent < middle {
			return nil
		}
		once.Do(func() { close(at) })
		select {
		case <-opened:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.files.gate.Store(&gate)
	open = sync.OnceFunc(func() { close(opened) })
	t.Cleanup(open)
	return at, open
}

func TestImportGoesOnInTheNextProcess(t *testing.T) {
	w := newWorld(t, false)
	raw, data := qcow2(t)
	w.files.files["/disk.qcow2"] = data
	reached, _ := w.hold(t)
	first := w.start(t)
	made := create(t, first, newImage("ubuntu", w.url+"/disk.qcow2"))
	<-reached
	awaitCheckpoint(t, w.staging) // what was sent is not yet what was written down
	first.stop()
	w.files.gate.Store(nil)
	w.files.ranged.Store(0)
	second := w.start(t)
	awaitPhase(t, second, "ubuntu", imagev1.ImagePhase_Ready)
	if w.files.ranged.Load() == 0 {
		t.Error("the file was read from its start again")
	}
	if _, found := w.published(t, "vi/default/ubuntu", made.GetMetadata().GetUid()); !found {
		t.Error("the image is not in the registry")
	}
	blob := new(imagev1.Blob)
	if err := second.images.Claim(t.Context(), key("ubuntu"), &metav1.Holder{Kind: "VirtualDisk", Uid: "u"}, blob); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, blob.GetPath())
}

// awaitCheckpoint blocks until there is something to go on from.
func awaitCheckpoint(t *testing.T, staging string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	give := time.After(patience)
	for !strings.Contains(checkpoints(t, staging), `"resumable":true`) {
		select {
		case <-tick.C:
		case <-give:
			t.Fatal("there is no checkpoint to go on from")
		}
	}
}

func TestChangedSpecStartsAnew(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/old"] = qcow2(t)
	small := filepath.Join(t.TempDir(), "small")
	qemuImg(t, "create", "-f", "qcow2", small, "3M")
	w.files.files["/new"] = read(t, small)
	reached, _ := w.hold(t)
	s := w.start(t)
	image := create(t, s, newImage("ubuntu", w.url+"/old"))
	<-reached
	image.Spec.DataSource.Http.Url = w.url + "/new"
	image.Metadata.ResourceVersion = "" // the status is written all the time
	if _, err := s.images.Update(t.Context(), image, resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	image, _ = awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	if image.GetStatus().GetSize().GetUnpacked() != "3Mi" || image.GetMetadata().GetGeneration() != 2 {
		t.Errorf("generation %d has %v", image.GetMetadata().GetGeneration(), image.GetStatus().GetSize())
	}
}

func TestDeletionStopsTheImportAndLeavesNothing(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	reached, _ := w.hold(t)
	s := w.start(t)
	create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	<-reached
	if _, err := s.images.Delete(t.Context(), key("ubuntu"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, s.images, key("ubuntu"))
	left, err := os.ReadDir(w.staging)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name() == "uploads" })
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	wantNoUpload(t, w, 0)
	// The registry may write down the hash of a request that broke off when its
	// upload is deleted already; it purges that later. The data must be gone.
	uploads, err := filepath.Glob(filepath.Join(w.registry.Root, "docker/registry/v2/repositories/vi/default/ubuntu/_uploads/*/data"))
	if err != nil || len(uploads) != 0 {
		t.Errorf("uploads left: %v, %v", uploads, err)
	}
}

func TestDeletionWaitsForHolders(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	s := w.start(t)
	made := create(t, s, newImage("ubuntu", w.url+"/disk.qcow2"))
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	holder := &metav1.Holder{Kind: "VirtualMachine", Namespace: namespace, Name: "linux-vm", Uid: "u", Active: true}
	if err := s.images.Claim(t.Context(), key("ubuntu"), holder, new(imagev1.Blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.images.Delete(t.Context(), key("ubuntu"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	image, _ := awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Terminating)
	if c := condition.Find(image.GetStatus().GetConditions(), "InUse"); c.GetReason() != "AttachedToVirtualMachine" {
		t.Errorf("InUse: %v", c)
	}
	uid := made.GetMetadata().GetUid()
	if _, found := w.published(t, "vi/default/ubuntu", uid); !found {
		t.Fatal("an image in use was removed")
	}
	if err := s.images.Release(t.Context(), key("ubuntu"), "u"); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, s.images, key("ubuntu"))
	if _, found := w.published(t, "vi/default/ubuntu", uid); found {
		t.Error("the manifest is still there")
	}
}

func TestClusterImageIsForAllNamespaces(t *testing.T) {
	w := newWorld(t, false)
	_, w.files.files["/disk.qcow2"] = qcow2(t)
	s := w.start(t)
	made, err := s.cluster.Create(t.Context(), &imagev1.ClusterVirtualImage{
		Metadata: &metav1.ObjectMeta{Name: "ubuntu"},
		Spec: &imagev1.ClusterVirtualImageSpec{DataSource: &imagev1.ClusterDataSource{
			Type: imagev1.DataSourceType_HTTP, Http: &imagev1.HTTPSource{Url: w.url + "/disk.qcow2"},
		}},
	}, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name, uid := resource.Key{Name: "ubuntu"}, made.GetMetadata().GetUid()
	image, _ := await(t, s.cluster, name, "Ready", func(i *imagev1.ClusterVirtualImage) bool {
		return i.GetStatus().GetPhase() == imagev1.ImagePhase_Ready
	})
	status := image.GetStatus()
	if want := w.registry.Options.Endpoint + "/cvi/ubuntu:" + uid; status.GetTarget().GetRegistryUrl() != want ||
		status.GetSize().GetUnpacked() != "16Mi" || status.GetFormat() != "qcow2" || status.GetProgress() != "100%" {
		t.Errorf("status %v", status)
	}
	for _, holder := range []*metav1.Holder{
		{Kind: "VirtualMachine", Namespace: "b", Name: "vm", Uid: "1"},
		{Kind: "VirtualMachine", Namespace: "a", Name: "vm", Uid: "2"},
		{Kind: "VirtualDisk", Namespace: "c", Name: "disk", Uid: "3"},
	} {
		blob := new(imagev1.Blob)
		if err := s.cluster.Claim(t.Context(), name, holder, blob); err != nil || blob.GetPath() == "" {
			t.Fatalf("%v, blob %v", err, blob)
		}
	}
	await(t, s.cluster, name, "used", func(i *imagev1.ClusterVirtualImage) bool {
		return slices.Equal(i.GetStatus().GetUsedInNamespaces(), []string{"a", "b"})
	})
	if _, err := s.cluster.Delete(t.Context(), name, resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, s.cluster, name)
	if _, found := w.published(t, "cvi/ubuntu", uid); found {
		t.Error("the manifest is still there")
	}
}
