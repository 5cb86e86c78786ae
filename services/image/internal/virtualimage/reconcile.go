// Package virtualimage has the rules of VirtualImages and ClusterVirtualImages:
// how an image comes to be in the registry, who may use it, what its status says.
//
// One set of rules serves both kinds (see Kind). It must not know how a file is
// imported (package job does), nor how the registry keeps it (package dvcr).
package virtualimage

import (
	"context"
	"errors"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
)

// inspectEvery is how often an image is looked at that is Ready: nobody tells of
// one that is gone.
const inspectEvery = time.Minute

// Reconciler makes images of one kind.
type Reconciler[T resource.Object] struct {
	Kind   Kind[T]
	Images Images[T]
	Intake *intake.Intake
	// Disks is nil where there is no disk service.
	Disks Disks
	// Changed wakes an image when its import is further.
	Changed func(resource.Key)
	Now     func() time.Time
}

// observation is what one look at an image found, and all that its status is
// made from.
type observation struct {
	// refusal is what of the spec can't be honored.
	refusal *fault.Fault
	// volume is what the disk service has of an image that is kept on a storage
	// class, and classFault why there is no such class.
	volume     *diskv1.ImageVolume
	classFault *fault.Fault
	intake.Observation
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[T]) Reconcile(ctx context.Context, image T) (reconcile.Result, error) {
	if resource.Terminating(image) {
		return r.remove(ctx, image)
	}
	var o observation
	err := r.step(ctx, image, &o)
	err = errors.Join(err, r.release(ctx, image, &o))
	if o.Unseen != nil && r.wasReady(image) {
		// A registry that is away says nothing about an image in it.
		return reconcile.Result{}, err
	}
	result := reconcile.Result{Status: r.status(image, &o)}
	if o.Published != nil || o.Lost || o.lost() {
		result.After = inspectEvery
	}
	return result, err
}

// step looks, and does what is to be done next.
func (r *Reconciler[T]) step(ctx context.Context, image T, o *observation) error {
	spec := r.Kind.spec(image)
	if o.refusal = r.supported(spec); o.refusal != nil {
		r.Intake.Imports.Stop(image.GetMetadata().GetUid()) // that of an earlier spec
		return o.refusal
	}
	if onVolume(spec) {
		return r.stepOnVolume(ctx, image, o)
	}
	var err error
	o.Observation, err = r.Intake.Step(ctx, r.wish(image))
	return err
}

// remove takes the image away. The loop keeps the object while it is held, and
// so does this the data.
func (r *Reconciler[T]) remove(ctx context.Context, image T) (reconcile.Result, error) {
	var o observation
	wish := r.wish(image)
	if !r.Intake.Imports.Stop(wish.UID) {
		o.Job = &job.State{Stage: job.Stopping}
		return reconcile.Result{Status: r.status(image, &o)}, nil
	}
	err := r.find(ctx, image, &o)
	if err == nil && !resource.Held(image) {
		err = r.erase(ctx, image, &o)
	}
	if err != nil {
		o.Unseen = fault.From(err)
	}
	if err != nil || resource.Held(image) {
		return reconcile.Result{Status: r.status(image, &o)}, err
	}
	return reconcile.Result{Finalized: true}, nil
}

// find looks where the image is kept.
func (r *Reconciler[T]) find(ctx context.Context, image T, o *observation) (err error) {
	if r.Disks != nil && onVolume(r.Kind.spec(image)) {
		err = r.look(ctx, image, o)
		if o.classFault != nil || o.Waits != nil { // there is none to remove
			return nil //nolint:nilerr // What is waited for is told in o.
		}
		return err
	}
	o.Published, err = r.Intake.Find(ctx, r.wish(image))
	return err
}

// erase removes all that there is of an image, wherever it was to be kept.
func (r *Reconciler[T]) erase(ctx context.Context, image T, o *observation) error {
	_, err := r.Intake.Remove(ctx, r.wish(image))
	if err != nil || r.Disks == nil {
		return err
	}
	if err := r.release(ctx, image, o); err != nil {
		return err
	}
	if !r.Kind.classes {
		return nil
	}
	return r.Disks.DeleteVolume(ctx, image.GetMetadata().GetUid())
}

// wish is the file that an image asks for.
func (r *Reconciler[T]) wish(image T) intake.Wish {
	meta, key := image.GetMetadata(), resource.KeyOf(image)
	return intake.Wish{
		UID: meta.GetUid(), Version: meta.GetGeneration(), Repository: r.Kind.repository(meta),
		Source: r.Kind.spec(image).GetDataSource(), Namespace: r.Kind.namespace(image), Owner: r.holder(image),
		Anew:    onVolume(r.Kind.spec(image)),
		Changed: func() { r.Changed(key) },
	}
}
