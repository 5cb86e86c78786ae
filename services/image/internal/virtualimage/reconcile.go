// Package virtualimage has the rules of VirtualImages and ClusterVirtualImages:
// how an image comes to be in the registry, who may use it, what its status says.
//
// One set of rules serves both kinds (see Kind). It must not know how a file is
// imported (package job does), nor how the registry keeps it (package dvcr).
package virtualimage

import (
	"context"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
)

// Imports bring images into the registry, in the background.
type Imports interface {
	// Start begins an import unless it is there, and never blocks.
	Start(t job.Task) job.State
	State(uid string) (job.State, bool)
	// Stop reports whether nothing of an import runs any more.
	Stop(uid string) bool
	// Clean drops what an import that was stopped has left.
	Clean(ctx context.Context, t job.Task) error
	// Last tells the version of the import that was last at work.
	Last(uid string) (int32, bool)
}

// Reconciler makes images of one kind.
type Reconciler[T resource.Object] struct {
	Kind     Kind[T]
	Imports  Imports
	Registry Registry
	// Changed wakes an image when its import is further.
	Changed func(resource.Key)
	Now     func() time.Time
}

// observation is what one look at an image found, and all that its status is
// made from.
type observation struct {
	// refusal is what of the spec can't be honored.
	refusal *fault.Fault
	// published is the image in the registry, nil where it isn't there.
	published *published
	// unseen is why the registry couldn't be looked at.
	unseen *fault.Fault
	// job is the import, nil where there is none.
	job *job.State
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[T]) Reconcile(ctx context.Context, image T) (reconcile.Result, error) {
	if resource.Terminating(image) {
		return r.remove(ctx, image)
	}
	var o observation
	err := r.step(ctx, image, &o)
	if o.unseen != nil && r.wasReady(image) {
		// A registry that is away says nothing about an image in it.
		return reconcile.Result{}, err
	}
	return reconcile.Result{Status: r.status(image, &o)}, err
}

// step looks, and does what is to be done next.
func (r *Reconciler[T]) step(ctx context.Context, image T, o *observation) error {
	uid := image.GetMetadata().GetUid()
	if state, found := r.Imports.State(uid); found {
		same := state.Version == image.GetMetadata().GetGeneration()
		switch {
		case !same && !r.Imports.Stop(uid):
			o.job = &job.State{Stage: job.Stopping}
			return nil // its end wakes the image
		case same && state.Stage != job.Done:
			return o.follow(state)
		case same:
			o.job = &state
		}
	}
	if o.refusal = supported(r.Kind.spec(image)); o.refusal != nil {
		return o.refusal
	}
	return r.publish(ctx, image, o)
}

// follow notes how far an import is. One that failed for good waits for another
// spec.
func (o *observation) follow(state job.State) error {
	o.job = &state
	if state.Stage == job.Failed {
		return fault.Wrap(state.Err, fault.Invalid, reasonProvisioningFailed, "%s", job.Explain(state.Err))
	}
	return nil
}

// publish sees to it that the image is in the registry.
func (r *Reconciler[T]) publish(ctx context.Context, image T, o *observation) error {
	found, err := r.find(ctx, image)
	if err == nil && found != nil && found.stale {
		found, err = nil, r.unpublish(ctx, image)
	}
	if err != nil {
		o.unseen = fault.From(err)
		return err
	}
	if found != nil {
		o.published = found
		r.Imports.Stop(image.GetMetadata().GetUid()) // done: forget it
		return nil
	}
	return o.follow(r.Imports.Start(r.task(image)))
}

// remove takes the image away. The loop keeps the object while it is held, and
// so does this the data.
func (r *Reconciler[T]) remove(ctx context.Context, image T) (reconcile.Result, error) {
	var o observation
	if !r.Imports.Stop(image.GetMetadata().GetUid()) {
		o.job = &job.State{Stage: job.Stopping}
		return reconcile.Result{Status: r.status(image, &o)}, nil
	}
	err := r.empty(ctx, image, &o)
	if err != nil || resource.Held(image) {
		return reconcile.Result{Status: r.status(image, &o)}, err
	}
	return reconcile.Result{Finalized: true}, nil
}

// empty drops what is left of an image that nobody holds.
func (r *Reconciler[T]) empty(ctx context.Context, image T, o *observation) error {
	found, err := r.find(ctx, image)
	o.published = found
	if err == nil && !resource.Held(image) {
		if err = r.Imports.Clean(ctx, r.task(image)); err == nil {
			err = r.unpublish(ctx, image)
		}
		err = classify(err)
	}
	if err != nil {
		o.unseen = fault.From(err)
	}
	return err
}

// task is the import that an image asks for.
func (r *Reconciler[T]) task(image T) job.Task {
	meta := image.GetMetadata()
	source := r.Kind.spec(image).GetDataSource().GetHttp()
	sum := source.GetChecksum()
	key := resource.KeyOf(image)
	return job.Task{
		UID: meta.GetUid(), Version: meta.GetGeneration(),
		URL: source.GetUrl(), CABundle: source.GetCaBundle(),
		Checksum: importer.Checksum{
			MD5: sum.GetMd5(), SHA1: sum.GetSha1(), SHA256: sum.GetSha256(), SHA512: sum.GetSha512(),
		},
		Repository: r.repository(meta), Tag: meta.GetUid(),
		Changed: func() { r.Changed(key) },
	}
}

func (r *Reconciler[T]) repository(meta *metav1.ObjectMeta) string {
	return r.Registry.Prefix + r.Kind.repository(meta)
}
