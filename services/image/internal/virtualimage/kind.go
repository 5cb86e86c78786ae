package virtualimage

import (
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"

	"google.golang.org/protobuf/proto"
)

// Kind is what differs between the kinds of image. All else is the same, in the
// words of a VirtualImage.
type Kind[T resource.Object] struct {
	// as is what the kind is called where another object is made from it, and
	// notReady that object's reason while it waits.
	as       imagev1.ObjectRefKind_Value
	notReady string
	// repository is where images of the kind are kept in the registry.
	repository func(*metav1.ObjectMeta) string
	// spec is a kind's spec as that of a VirtualImage.
	spec func(T) *imagev1.VirtualImageSpec
	// old is the status as it was written last.
	old func(T) *imagev1.VirtualImageStatus
	// status makes the kind's own status.
	status func(T, *imagev1.VirtualImageStatus) proto.Message
	// namespace is where the objects that the source names are.
	namespace func(T) string
	// waiting and pulling are Ready's reasons while the source isn't there, and
	// where a registry's image can't be pulled.
	waiting, pulling string
	// classes is set for kinds that have a storage class.
	classes bool
}

// Namespaced is the kind VirtualImage.
func Namespaced() Kind[*imagev1.VirtualImage] {
	return Kind[*imagev1.VirtualImage]{
		as:         imagev1.ObjectRefKind_VirtualImage,
		notReady:   "ImageNotReady",
		repository: func(m *metav1.ObjectMeta) string { return "vi/" + m.GetNamespace() + "/" + m.GetName() },
		spec:       (*imagev1.VirtualImage).GetSpec,
		old:        (*imagev1.VirtualImage).GetStatus,
		status:     func(_ *imagev1.VirtualImage, s *imagev1.VirtualImageStatus) proto.Message { return s },
		namespace:  func(i *imagev1.VirtualImage) string { return i.GetMetadata().GetNamespace() },
		waiting:    "DatasourceNotReady",
		pulling:    "ImagePullFailed",
		classes:    true,
	}
}

// Cluster is the kind ClusterVirtualImage.
func Cluster() Kind[*imagev1.ClusterVirtualImage] {
	return Kind[*imagev1.ClusterVirtualImage]{
		as:         imagev1.ObjectRefKind_ClusterVirtualImage,
		notReady:   "ClusterImageNotReady",
		repository: func(m *metav1.ObjectMeta) string { return "cvi/" + m.GetName() },
		spec:       clusterSpec,
		old:        clusterOld,
		status:     clusterStatus,
		namespace:  clusterNamespace,
		waiting:    reasonProvisioningNotStarted,
		pulling:    reasonProvisioningFailed,
	}
}

func clusterSpec(image *imagev1.ClusterVirtualImage) *imagev1.VirtualImageSpec {
	source := image.GetSpec().GetDataSource()
	common := &imagev1.DataSource{Type: source.GetType(), Http: source.GetHttp(), Upload: source.GetUpload()}
	if from := source.GetContainerImage(); from != nil {
		common.ContainerImage = &imagev1.ContainerImageSource{Image: from.GetImage(), CaBundle: from.GetCaBundle()}
		if secret := from.GetImagePullSecret(); secret != nil {
			common.ContainerImage.ImagePullSecret = &imagev1.ImagePullSecret{Name: secret.GetName()}
		}
	}
	if ref := source.GetObjectRef(); ref != nil {
		common.ObjectRef = &imagev1.ObjectRef{Kind: ref.GetKind(), Name: ref.GetName()}
	}
	return &imagev1.VirtualImageSpec{Storage: imagev1.ImageStorage_ContainerRegistry, DataSource: common}
}

func clusterNamespace(image *imagev1.ClusterVirtualImage) string {
	source := image.GetSpec().GetDataSource()
	if secret := source.GetContainerImage().GetImagePullSecret(); secret != nil {
		return secret.GetNamespace()
	}
	return source.GetObjectRef().GetNamespace()
}

func clusterOld(image *imagev1.ClusterVirtualImage) *imagev1.VirtualImageStatus {
	status := image.GetStatus()
	return &imagev1.VirtualImageStatus{
		Phase: status.GetPhase(), Conditions: status.GetConditions(),
		DownloadSpeed: status.GetDownloadSpeed(), ObservedGeneration: status.GetObservedGeneration(),
	}
}

func clusterStatus(image *imagev1.ClusterVirtualImage, s *imagev1.VirtualImageStatus) proto.Message {
	status := &imagev1.ClusterVirtualImageStatus{
		Phase: s.GetPhase(), Progress: s.GetProgress(), Cdrom: s.Cdrom, Format: s.GetFormat(), Size: s.GetSize(),
		DownloadSpeed: s.GetDownloadSpeed(), SourceUid: s.GetSourceUid(), UsedInNamespaces: usedInNamespaces(image.GetMetadata().GetHolders()),
		ImageUploadUrls: s.GetImageUploadUrls(), UploadCommand: s.GetUploadCommand(),
		Conditions: s.GetConditions(), ObservedGeneration: s.GetObservedGeneration(),
	}
	if target := s.GetTarget(); target != nil {
		status.Target = &imagev1.ClusterImageTarget{RegistryUrl: target.GetRegistryUrl()}
	}
	return status
}
