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
	Images, ClusterImages func(context.Context, resource.Key) (intake.Copy, error)
}

// Origin implements intake.Origins.
func (o *Origins) Origin(ctx context.Context, w intake.Wish) (intake.Origin, error) {
	if w.Source.GetType() != imagev1.DataSourceType_ObjectRef {
		return o.Outside.Origin(ctx, w)
	}
	ref := w.Source.GetObjectRef()
	var found intake.Copy
	var err error
	switch ref.GetKind() {
	case imagev1.ObjectRefKind_VirtualImage:
		found, err = o.Images(ctx, resource.Key{Namespace: w.Namespace, Name: ref.GetName()})
	case imagev1.ObjectRefKind_ClusterVirtualImage:
		found, err = o.ClusterImages(ctx, resource.Key{Name: ref.GetName()})
	default:
		err = fault.New(fault.Invalid, intake.ReasonNotSupported, "an objectRef of kind %s is not supported yet", ref.GetKind())
	}
	if err != nil {
		return intake.Origin{}, err
	}
	return intake.Origin{Copy: &found}, nil
}

// Copy gives an image to be copied within the registry. Nothing holds it
// meanwhile: a copy finds its blob or fails as a whole.
func (r *Reconciler[T]) Copy(ctx context.Context, key resource.Key) (intake.Copy, error) {
	image, err := r.Images.Get(key)
	switch {
	case fault.Is(err, fault.NotFound):
		return intake.Copy{}, r.notReady(key, "isn't there")
	case err != nil:
		return intake.Copy{}, err
	case resource.Terminating(image):
		return intake.Copy{}, r.notReady(key, "is being deleted")
	}
	found, err := r.Intake.Current(ctx, r.wish(image))
	if err != nil {
		return intake.Copy{}, err
	}
	if found == nil {
		return intake.Copy{}, r.notReady(key, "is not Ready")
	}
	artifact := found.Artifact
	artifact.SourceUID = image.GetMetadata().GetUid()
	return intake.Copy{
		Repository: r.Intake.Registry.Prefix + r.Kind.repository(image.GetMetadata()), Artifact: artifact,
	}, nil
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
