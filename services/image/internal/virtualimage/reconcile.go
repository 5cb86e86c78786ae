// Package virtualimage has the rules of VirtualImages and ClusterVirtualImages:
// how an image comes to be in the registry, who may use it, what its status says.
//
// One set of rules serves both kinds (see Kind). It must not know how a file is
// imported (package job does), nor how the registry keeps it (package dvcr).
package virtualimage

import (
	"context"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
)

// Reconciler makes images of one kind.
type Reconciler[T resource.Object] struct {
	Kind   Kind[T]
	Images Images[T]
	Intake *intake.Intake
	// Changed wakes an image when its import is further.
	Changed func(resource.Key)
	Now     func() time.Time
}

// observation is what one look at an image found, and all that its status is
// made from.
type observation struct {
	// refusal is what of the spec can't be honored.
	refusal *fault.Fault
	intake.Observation
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[T]) Reconcile(ctx context.Context, image T) (reconcile.Result, error) {
	if resource.Terminating(image) {
		return r.remove(ctx, image)
	}
	var o observation
	err := r.step(ctx, image, &o)
	if o.Unseen != nil && r.wasReady(image) {
		// A registry that is away says nothing about an image in it.
		return reconcile.Result{}, err
	}
	return reconcile.Result{Status: r.status(image, &o)}, err
}

// step looks, and does what is to be done next.
func (r *Reconciler[T]) step(ctx context.Context, image T, o *observation) error {
	if o.refusal = supported(r.Kind.spec(image)); o.refusal != nil {
		r.Intake.Imports.Stop(image.GetMetadata().GetUid()) // that of an earlier spec
		return o.refusal
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
	var err error
	o.Published, err = r.Intake.Find(ctx, wish)
	if err == nil && !resource.Held(image) {
		_, err = r.Intake.Remove(ctx, wish)
	}
	if err != nil {
		o.Unseen = fault.From(err)
	}
	if err != nil || resource.Held(image) {
		return reconcile.Result{Status: r.status(image, &o)}, err
	}
	return reconcile.Result{Finalized: true}, nil
}

// wish is the file that an image asks for.
func (r *Reconciler[T]) wish(image T) intake.Wish {
	meta, key := image.GetMetadata(), resource.KeyOf(image)
	return intake.Wish{
		UID: meta.GetUid(), Version: meta.GetGeneration(), Repository: r.Kind.repository(meta),
		Source: r.Kind.spec(image).GetDataSource(), Namespace: r.Kind.namespace(image),
		Changed: func() { r.Changed(key) },
	}
}
