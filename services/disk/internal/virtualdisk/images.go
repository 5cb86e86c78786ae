package virtualdisk

import (
	"context"
	"strconv"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// ImageMirrors implements Images on copies of the image service's objects.
type ImageMirrors struct {
	images  *resource.Mirror[*imagev1.VirtualImage]
	cluster *resource.Mirror[*imagev1.ClusterVirtualImage]
}

// NewImageMirrors returns mirrors over a connection to the image service.
// changed is told of each image that changed: its kind, namespace and name.
func NewImageMirrors(conn grpc.ClientConnInterface, changed func(*diskv1.DiskObjectRef, string)) (*ImageMirrors, error) {
	images, err := newMirror[*imagev1.VirtualImage](conn, diskv1.DiskObjectRefKind_VirtualImage, changed)
	if err != nil {
		return nil, err
	}
	cluster, err := newMirror[*imagev1.ClusterVirtualImage](conn, diskv1.DiskObjectRefKind_ClusterVirtualImage, changed)
	if err != nil {
		return nil, err
	}
	return &ImageMirrors{images: images, cluster: cluster}, nil
}

func newMirror[T resource.Object](conn grpc.ClientConnInterface, ref diskv1.DiskObjectRefKind_Value, changed func(*diskv1.DiskObjectRef, string)) (*resource.Mirror[T], error) {
	var none T
	client, err := resource.NewClient[T](conn, kind.Must(none))
	if err != nil {
		return nil, err
	}
	return resource.NewMirror(client, resource.MirrorOptions[T]{Handler: func(event resource.Event[T]) {
		if event.Type == resource.Bookmark {
			return
		}
		key := resource.KeyOf(event.Object)
		changed(&diskv1.DiskObjectRef{Kind: ref, Name: key.Name}, key.Namespace)
	}}), nil
}

// Run keeps the mirrors until ctx ends.
func (m *ImageMirrors) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.images.Run(ctx) })
	group.Go(func() error { return m.cluster.Run(ctx) })
	return group.Wait()
}

// State implements Images.
func (m *ImageMirrors) State(ref *diskv1.DiskObjectRef, namespace string) ImageState {
	if ref.GetKind() == diskv1.DiskObjectRefKind_ClusterVirtualImage {
		image, _ := m.cluster.Get(resource.Key{Name: ref.GetName()})
		state := stateOf(image.GetMetadata(), image.GetStatus())
		state.Unknown = !m.cluster.Synced()
		return state
	}
	image, _ := m.images.Get(resource.Key{Namespace: namespace, Name: ref.GetName()})
	state := stateOf(image.GetMetadata(), image.GetStatus())
	state.Unknown = !m.images.Synced()
	return state
}

// imageStatus is what the two kinds of images have in common.
type imageStatus interface {
	GetPhase() imagev1.ImagePhase_Value
	GetProgress() string
	GetCdrom() bool
	GetSize() *imagev1.ImageSize
}

// stateOf reads an image; one without metadata is not there.
func stateOf(meta *metav1.ObjectMeta, status imageStatus) ImageState {
	// What is no number is no size: the claim tells it again.
	size, _ := strconv.ParseInt(status.GetSize().GetUnpackedBytes(), 10, 64)
	phase := status.GetPhase()
	if phase == 0 {
		phase = imagev1.ImagePhase_Pending // nobody has looked at it yet
	}
	return ImageState{
		Found: meta != nil, Ready: phase == imagev1.ImagePhase_Ready, UID: meta.GetUid(),
		Phase: phase.String(), Progress: status.GetProgress(),
		CDROM: status.GetCdrom(), VirtualBytes: size,
	}
}

// Claim implements Images.
func (m *ImageMirrors) Claim(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) (*imagev1.Blob, error) {
	blob := new(imagev1.Blob)
	if ref.GetKind() == diskv1.DiskObjectRefKind_ClusterVirtualImage {
		return blob, m.cluster.Client().Claim(ctx, resource.Key{Name: ref.GetName()}, holder, blob)
	}
	return blob, m.images.Client().Claim(ctx, resource.Key{Namespace: holder.GetNamespace(), Name: ref.GetName()}, holder, blob)
}

// Release implements Images.
func (m *ImageMirrors) Release(ctx context.Context, ref *diskv1.DiskObjectRef, holder *metav1.Holder) error {
	if ref.GetKind() == diskv1.DiskObjectRefKind_ClusterVirtualImage {
		return m.cluster.Client().Release(ctx, resource.Key{Name: ref.GetName()}, holder.GetUid())
	}
	return m.images.Client().Release(ctx, resource.Key{Namespace: holder.GetNamespace(), Name: ref.GetName()}, holder.GetUid())
}
