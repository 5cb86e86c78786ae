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
	// repository is where images of the kind are kept in the registry.
	repository func(*metav1.ObjectMeta) string
	// spec is a kind's spec as that of a VirtualImage.
	spec func(T) *imagev1.VirtualImageSpec
	// old is the status as it was written last.
	old func(T) *imagev1.VirtualImageStatus
	// status makes the kind's own status.
	status func(T, *imagev1.VirtualImageStatus) proto.Message
	// classes is set for kinds that have a storage class.
	classes bool
}

// Namespaced is the kind VirtualImage.
func Namespaced() Kind[*imagev1.VirtualImage] {
	return Kind[*imagev1.VirtualImage]{
		repository: func(m *metav1.ObjectMeta) string { return "vi/" + m.GetNamespace() + "/" + m.GetName() },
		spec:       (*imagev1.VirtualImage).GetSpec,
		old:        (*imagev1.VirtualImage).GetStatus,
		status:     func(_ *imagev1.VirtualImage, s *imagev1.VirtualImageStatus) proto.Message { return s },
		classes:    true,
	}
}

// Cluster is the kind ClusterVirtualImage.
func Cluster() Kind[*imagev1.ClusterVirtualImage] {
	return Kind[*imagev1.ClusterVirtualImage]{
		repository: func(m *metav1.ObjectMeta) string { return "cvi/" + m.GetName() },
		spec:       clusterSpec,
		old:        clusterOld,
		status:     clusterStatus,
	}
}

func clusterSpec(image *imagev1.ClusterVirtualImage) *imagev1.VirtualImageSpec {
	source := image.GetSpec().GetDataSource()
	return &imagev1.VirtualImageSpec{
		Storage:    imagev1.ImageStorage_ContainerRegistry,
		DataSource: &imagev1.DataSource{Type: source.GetType(), Http: source.GetHttp()},
	}
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
		DownloadSpeed: s.GetDownloadSpeed(), UsedInNamespaces: usedInNamespaces(image.GetMetadata().GetHolders()),
		Conditions: s.GetConditions(), ObservedGeneration: s.GetObservedGeneration(),
	}
	if target := s.GetTarget(); target != nil {
		status.Target = &imagev1.ClusterImageTarget{RegistryUrl: target.GetRegistryUrl()}
	}
	return status
}
