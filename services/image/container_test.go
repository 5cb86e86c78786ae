package image_test

import (
	"path/filepath"
	"strings"
	"testing"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
)

func containerImage(name, reference string) *imagev1.VirtualImage {
	i := newImage(name, "")
	i.Spec.DataSource = &imagev1.DataSource{
		Type:           imagev1.DataSourceType_ContainerImage,
		ContainerImage: &imagev1.ContainerImageSource{Image: reference},
	}
	return i
}

func datasourceReady(i *imagev1.VirtualImage) *metav1.Condition {
	return condition.Find(i.GetStatus().GetConditions(), "DatasourceReady")
}

func TestImageFromARegistryBecomesReady(t *testing.T) {
	w := newWorld(t, false)
	raw, data := qcow2(t)
	users := containerDisk(t, data, false)
	s := w.start(t)
	create(t, s, containerImage("ubuntu", users.Options.Endpoint+"/disks/ubuntu:1"))
	image, _ := awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
	if status := image.GetStatus(); status.GetSize().GetUnpacked() != "16Mi" || status.GetFormat() != "qcow2" || status.GetProgress() != "100%" {
		t.Errorf("status %v", status)
	}
	blob := new(imagev1.Blob)
	if err := s.images.Claim(t.Context(), key("ubuntu"), &metav1.Holder{Kind: "VirtualDisk", Uid: "u"}, blob); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw, blob.GetPath())

	create(t, s, containerImage("lost", users.Options.Endpoint+"/disks/ubuntu:2"))
	lost, _ := awaitPhase(t, s, "lost", imagev1.ImagePhase_Failed)
	if ready := readyOf(lost); ready.GetReason() != "ImagePullFailed" || !strings.Contains(ready.GetMessage(), "SourceNotFound") {
		t.Errorf("Ready: %v", ready)
	}
}

func TestRegistryImageWaitsForItsPullSecret(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	users := containerDisk(t, data, true)
	s := w.start(t)
	image := containerImage("ubuntu", users.Options.Endpoint+"/disks/ubuntu:1")
	image.Spec.DataSource.ContainerImage.CaBundle = read(t, filepath.Join(users.Options.CertDir, "ca.crt"))
	image.Spec.DataSource.ContainerImage.ImagePullSecret = &imagev1.ImagePullSecret{Name: "pull"}
	create(t, s, image)
	waiting, _ := await(t, s.images, key("ubuntu"), "waiting", func(i *imagev1.VirtualImage) bool {
		return datasourceReady(i).GetReason() == "ContainerRegistrySecretNotFound"
	})
	if waiting.GetStatus().GetPhase() != imagev1.ImagePhase_Pending || readyOf(waiting).GetReason() != "DatasourceNotReady" ||
		datasourceReady(waiting).GetStatus() != metav1.ConditionStatus_False {
		t.Errorf("status %v", waiting.GetStatus())
	}
	w.secrets.put("elsewhere/pull", users.Options.Endpoint, dvcrtest.Username, dvcrtest.Password)
	w.secrets.put("default/pull", users.Options.Endpoint, dvcrtest.Username, "a wrong word")
	touch(t, s, "ubuntu", "yes")
	refused, seen := awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Failed)
	if readyOf(refused).GetReason() != "ImagePullFailed" || !strings.Contains(readyOf(refused).GetMessage(), "SourceAccessDenied") {
		t.Errorf("Ready: %v", readyOf(refused))
	}
	for _, secret := range []string{"a wrong word", dvcrtest.Password} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log tells %q", secret)
		}
		for _, earlier := range append(seen, refused) {
			if strings.Contains(earlier.String(), secret) {
				t.Errorf("the image tells %q: %v", secret, earlier)
			}
		}
	}
	if strings.Contains(checkpoints(t, w.staging), dvcrtest.Password) {
		t.Error("a password was written down")
	}

	w.secrets.put("default/pull", users.Options.Endpoint, dvcrtest.Username, dvcrtest.Password)
	refused.Spec.DataSource.ContainerImage.Image += "@" // another spec tries again
	refused.Spec.DataSource.ContainerImage.Image = strings.TrimSuffix(refused.Spec.DataSource.ContainerImage.Image, ":1@") + ":1"
	refused.Spec.DataSource.ContainerImage.CaBundle = append(refused.Spec.DataSource.ContainerImage.CaBundle, '\n')
	refused.Metadata.ResourceVersion = ""
	if _, err := s.images.Update(t.Context(), refused, resource.UpdateOptions{Mask: []string{"spec"}}); err != nil {
		t.Fatal(err)
	}
	awaitPhase(t, s, "ubuntu", imagev1.ImagePhase_Ready)
}

// touch changes something of an image that its import doesn't look at, so that the
// image is looked at: each time another word.
func touch(t *testing.T, s *service, name, word string) {
	t.Helper()
	i, err := s.images.Get(t.Context(), key(name))
	if err != nil {
		t.Fatal(err)
	}
	i.Metadata.Labels = map[string]string{"touched": word}
	i.Metadata.ResourceVersion = ""
	if _, err := s.images.Update(t.Context(), i, resource.UpdateOptions{Mask: []string{"metadata.labels"}}); err != nil {
		t.Fatal(err)
	}
}

func TestClusterImageNamesTheNamespaceOfItsSecret(t *testing.T) {
	w := newWorld(t, false)
	_, data := qcow2(t)
	users := containerDisk(t, data, true)
	w.secrets.put("team/pull", users.Options.Endpoint, dvcrtest.Username, dvcrtest.Password)
	s := w.start(t)
	image := &imagev1.ClusterVirtualImage{
		Metadata: &metav1.ObjectMeta{Name: "ubuntu"},
		Spec: &imagev1.ClusterVirtualImageSpec{DataSource: &imagev1.ClusterDataSource{
			Type: imagev1.DataSourceType_ContainerImage,
			ContainerImage: &imagev1.ClusterContainerImageSource{
				Image:           users.Options.Endpoint + "/disks/ubuntu:1",
				CaBundle:        read(t, filepath.Join(users.Options.CertDir, "ca.crt")),
				ImagePullSecret: &imagev1.ClusterImagePullSecret{Name: "pull", Namespace: "team"},
			},
		}},
	}
	if _, err := s.cluster.Create(t.Context(), image, resource.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, s.cluster, resource.Key{Name: "ubuntu"}, "Ready", func(i *imagev1.ClusterVirtualImage) bool {
		return i.GetStatus().GetPhase() == imagev1.ImagePhase_Ready
	})
}
