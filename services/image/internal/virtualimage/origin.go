package virtualimage

import (
	"context"
	"iter"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
)

// Images are the objects of a kind.
type Images[T resource.Object] interface {
	Get(key resource.Key) (T, error)
	All(namespace string, selector labels.Selector) ([]T, error)
	Watch(ctx context.Context, opts resource.WatchOptions) iter.Seq2[resource.Event[T], error]
}

// Origins finds what images are made from: other images, which are copied within
// the registry, and what is outside. Its fields are set before it is asked.
type Origins struct {
	Outside intake.Origins
	// Images and ClusterImages give the image of a name, or say why not yet.
	Images, ClusterImages func(context.Context, resource.Key) (intake.Origin, error)
	// Disks is nil where there is no disk service.
	Disks Disks
}

// Origin implements intake.Origins.
func (o *Origins) Origin(ctx context.Context, w intake.Wish) (intake.Origin, error) {
	if w.Source.GetType() != imagev1.DataSourceType_ObjectRef {
		return o.Outside.Origin(ctx, w)
	}
	ref := w.Source.GetObjectRef()
	key := resource.Key{Namespace: w.Namespace, Name: ref.GetName()}
	switch {
	case ref.GetKind() == imagev1.ObjectRefKind_VirtualImage:
		return o.Images(ctx, key)
	case ref.GetKind() == imagev1.ObjectRefKind_ClusterVirtualImage:
		return o.ClusterImages(ctx, resource.Key{Name: ref.GetName()})
	case ref.GetKind() == imagev1.ObjectRefKind_VirtualDisk && o.Disks != nil:
		return o.Disks.Disk(ctx, w.Owner, key)
	case ref.GetKind() == imagev1.ObjectRefKind_VirtualDiskSnapshot && o.Disks != nil && o.Disks.HasSnapshots():
		return o.Disks.Snapshot(ctx, w.Owner, key)
	}
	return intake.Origin{}, fault.New(fault.Invalid, intake.ReasonNotSupported, "an objectRef of kind %s is not supported here", ref.GetKind())
}

// Origin gives an image that another one is made from: to be copied within the
// registry, or to be read from its volume. Nothing holds it meanwhile: who copies
// it finds all of it or fails as a whole.
func (r *Reconciler[T]) Origin(ctx context.Context, key resource.Key) (intake.Origin, error) {
	image, err := r.Images.Get(key)
	switch {
	case fault.Is(err, fault.NotFound):
		return intake.Origin{}, r.notReady(key, "isn't there")
	case err != nil:
		return intake.Origin{}, err
	case resource.Terminating(image):
		return intake.Origin{}, r.notReady(key, "is being deleted")
	}
	if r.Disks != nil && onVolume(r.Kind.spec(image)) {
		return r.volumeOrigin(ctx, key, image)
	}
	found, err := r.Intake.Current(ctx, r.wish(image))
	if err != nil {
		return intake.Origin{}, err
	}
	if found == nil {
		return intake.Origin{}, r.notReady(key, "is not Ready")
	}
	artifact := found.Artifact
	artifact.SourceUID = image.GetMetadata().GetUid()
	return intake.Origin{Copy: &intake.Copy{
		Repository: r.Intake.Registry.Prefix + r.Kind.repository(image.GetMetadata()), Artifact: artifact,
	}}, nil
}

func (r *Reconciler[T]) volumeOrigin(ctx context.Context, key resource.Key, image T) (intake.Origin, error) {
	var o observation
	if err := r.look(ctx, image, &o); o.Unseen != nil {
		return intake.Origin{}, err
	}
	if o.Published == nil {
		return intake.Origin{}, r.notReady(key, "is not Ready")
	}
	return r.Disks.VolumeOrigin(image.GetMetadata().GetUid(), r.Kind.as.String()+" "+key.String()), nil
}

func (r *Reconciler[T]) notReady(key resource.Key, why string) error {
	return fault.New(fault.NotReady, r.Kind.notReady, "%s %s %s", r.Kind.as, key, why)
}

// Dependents are the images that wait for another one to be Ready.
func (r *Reconciler[T]) Dependents(kind imagev1.ObjectRefKind_Value, of resource.Key) ([]resource.Key, error) {
	all, err := r.Images.All("", nil)
	if err != nil {
		return nil, err
	}
	var waiting []resource.Key
	for _, image := range all {
		ref := r.Kind.spec(image).GetDataSource().GetObjectRef()
		near := kind == imagev1.ObjectRefKind_ClusterVirtualImage || r.Kind.namespace(image) == of.Namespace
		if ref.GetKind() == kind && ref.GetName() == of.Name && near && !r.wasReady(image) {
			waiting = append(waiting, resource.KeyOf(image))
		}
	}
	return waiting, nil
}

// watchPause is between a watch that ended and the next.
const watchPause = time.Second

// Follow tells of each image whose phase turns, by its name in objectRefs, until
// ctx ends.
func (r *Reconciler[T]) Follow(ctx context.Context, turned func(imagev1.ObjectRefKind_Value, resource.Key)) error {
	for {
		err := r.follow(ctx, turned)
		if ctx.Err() == nil && !fault.Is(err, fault.Stale, fault.Transient) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

func (r *Reconciler[T]) follow(ctx context.Context, turned func(imagev1.ObjectRefKind_Value, resource.Key)) error {
	phases := map[resource.Key]imagev1.ImagePhase_Value{}
	for event, err := range r.Images.Watch(ctx, resource.WatchOptions{}) {
		if err != nil {
			return err
		}
		if event.Type == resource.Bookmark {
			continue
		}
		key, phase := resource.KeyOf(event.Object), r.Kind.old(event.Object).GetPhase()
		before, known := phases[key]
		if event.Type == resource.Deleted {
			delete(phases, key)
		} else {
			phases[key] = phase
		}
		if !known || before != phase || event.Type == resource.Deleted {
			turned(r.Kind.as, key)
		}
	}
	return fault.New(fault.Transient, "WatchEnded", "the watch ended")
}
