package diskservice

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/image/internal/intake"
)

const sweepEvery = 30 * time.Second

// origins are objects of one kind that images are made from. An image holds the
// one that it reads: a disk, so that no VM begins to write to it; a snapshot, so
// that it does not go.
type origins[T resource.Object] struct {
	mirror *resource.Mirror[T]
	// answer is what a claim is answered with, which images don't need.
	answer func() proto.Message
	// exports streams an object as a file.
	exports diskv1.DiskExportServiceClient
	// notReady is the reason of a condition that waits for an object, attached that
	// of one which a VM runs with.
	notReady, attached string
}

func newOrigins[T resource.Object](conn grpc.ClientConnInterface, changed func(resource.Object)) (*origins[T], error) {
	var none T
	client, err := resource.NewClient[T](conn, kind.Must(none))
	if err != nil {
		return nil, err
	}
	return &origins[T]{mirror: resource.NewMirror(client, resource.MirrorOptions[T]{
		Handler: func(event resource.Event[T]) {
			if event.Type != resource.Bookmark {
				changed(event.Object)
			}
		},
	})}, nil
}

// take gives an object to be read, and holds it for an image until release. A
// fault of class NotReady says what it lacks.
func (o *origins[T]) take(ctx context.Context, image *metav1.Holder, key resource.Key) (intake.Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	name := o.mirror.Client().Kind().Name + " " + key.String()
	object, err := o.mirror.Client().Get(ctx, key)
	if err == nil {
		err = o.mirror.Client().Claim(ctx, key, image, o.answer())
	}
	switch {
	case fault.Is(err, fault.NotFound):
		return intake.Origin{}, fault.New(fault.NotReady, o.notReady, "%s doesn't exist", name)
	case fault.ReasonOf(err) == reasonInUse:
		return intake.Origin{}, fault.New(fault.NotReady, o.attached, "%s: stop the VM first", fault.From(err).Message)
	case fault.Is(err, fault.NotReady):
		return intake.Origin{}, fault.New(fault.NotReady, o.notReady, "%s", fault.From(err).Message)
	case err != nil:
		return intake.Origin{}, err
	}
	read := func(ctx context.Context, offset int64, etag string) (grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse], error) {
		return o.exports.ReadDiskExport(ctx, &diskv1.ReadDiskExportRequest{Namespace: key.Namespace, Name: key.Name, Offset: offset, Etag: etag})
	}
	return intake.Origin{File: &intake.File{SourceUID: object.GetMetadata().GetUid(), Source: file{read, name}}}, nil
}

// release lets go of what is held unneeded.
func (o *origins[T]) release(ctx context.Context, unneeded func(resource.Key, *metav1.Holder) bool) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	var problems []error
	for _, object := range o.mirror.List("", nil) {
		key := resource.KeyOf(object)
		for _, holder := range Holders(object) {
			if unneeded(key, holder) {
				problems = append(problems, o.mirror.Client().Release(ctx, key, holder.GetUid()))
			}
		}
	}
	return errors.Join(problems...)
}

// run follows the objects until ctx ends, and lets go of those that are held for
// an image that is none any more: a process that was killed leaves such holds.
func (o *origins[T]) run(ctx context.Context, exists func(holder *metav1.Holder) bool) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return o.mirror.Run(ctx) })
	group.Go(func() error {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				// What fails is tried in the next sweep.
				_ = o.release(ctx, func(_ resource.Key, holder *metav1.Holder) bool { return !exists(holder) })
			}
		}
	})
	return group.Wait()
}

// Holders are the images that hold an object.
func Holders(object resource.Object) []*metav1.Holder {
	var images []*metav1.Holder
	for _, holder := range object.GetMetadata().GetHolders() {
		switch holder.GetKind() {
		case imagev1.ObjectRefKind_VirtualImage.String(), imagev1.ObjectRefKind_ClusterVirtualImage.String():
			images = append(images, holder)
		}
	}
	return images
}
