// Package intake brings what a data source names into DVCR, for one owner: the
// way is the same for an image and for what a disk is made from.
//
// It owns the order of the steps, and what was observed of them: whether the
// file is published, how far its import is, what it waits for. It must not know
// any kind, phase or condition.
package intake

import (
	"context"
	"errors"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
)

// Imports bring files into the registry, in the background.
type Imports interface {
	// Start begins an import unless it is there, and never blocks.
	Start(t job.Task) job.State
	State(uid string) (job.State, bool)
	// Stop reports whether nothing of an import runs any more.
	Stop(uid string) bool
	Records
}

// Records are what is durable of imports, beside what they publish.
type Records interface {
	// Mark writes down whose turn it is, and drops what an earlier version left.
	Mark(ctx context.Context, t job.Task) error
	// Clean drops what an import that was stopped has left.
	Clean(ctx context.Context, t job.Task) error
	// Last tells what was last at work.
	Last(uid string) (job.Last, bool)
	// Publish writes down that a copy is published.
	Publish(t job.Task) error
}

// Wish is a file that an owner wants in DVCR.
type Wish struct {
	// UID is the owner's. The file is published under it, as the tag.
	UID string
	// Version is that of the wish: the generation of the owner's spec.
	Version int32
	// Repository is where the file is published, without the registry's prefix.
	Repository string
	// Source is where the file comes from, Namespace where its secrets are.
	Source    *imagev1.DataSource
	Namespace string
	// Owner is who wants it, as a holder of what the file is made from.
	Owner *metav1.Holder
	// Anew has a file brought again that was published and is lost. Others stay
	// lost: what would come might be another content.
	Anew bool
	// Changed is called when the next Step would find something else. It must not
	// block.
	Changed func()
}

// Origin is where a file is: one of its fields is set.
type Origin struct {
	File *File
	Copy *Copy
}

// File is a file to read.
type File struct {
	Source   importer.Source
	Checksum importer.Checksum
	// SourceUID is the UID of the object that it comes from; empty for one that is
	// none.
	SourceUID string
}

// Copy is what DVCR has already, in another of its repositories.
type Copy struct {
	// Repository has the prefix.
	Repository string
	Artifact   dvcr.Artifact
}

// Origins find the file that a wish names. A fault of class NotReady or NotFound
// says that it isn't there yet: its reason becomes that of the source's
// condition.
type Origins interface {
	Origin(ctx context.Context, w Wish) (Origin, error)
}

// Observation is what one look at a wish found.
type Observation struct {
	// Published is the file in the registry, nil where it isn't there.
	Published *Published
	// Lost is a file that was in the registry and is not any more.
	Lost bool
	// Unseen is why the registry couldn't be looked at.
	Unseen *fault.Fault
	// Waits is why the source can't be read yet, or never can.
	Waits *fault.Fault
	// Upload is the file that a user sends, nil where none is waited for.
	Upload *Upload
	// Job is the import, nil where there is none.
	Job *job.State
}

// Intake takes the next step for each wish.
type Intake struct {
	Imports  Imports
	Registry Registry
	Origins  Origins
	// Uploads wait for files that users send to Door; nil where none are taken.
	Uploads Uploads
	Door    Door
}

// Step looks, and does what is to be done next. The class of its error says when
// it should be called again; what was observed holds with an error, too.
// Idempotent, for one caller a wish.
func (i *Intake) Step(ctx context.Context, w Wish) (Observation, error) {
	var o Observation
	i.seeUpload(w, &o)
	state, found := i.Imports.State(w.UID)
	same := state.Version == w.Version
	switch {
	case !found:
	case !same && !i.Imports.Stop(w.UID):
		o.Job = &job.State{Stage: job.Stopping} // its end is told by Changed
		return o, nil
	case same && state.Stage != job.Done:
		return o, errors.Join(i.giveUp(w, state), o.follow(state))
	case same:
		o.Job = &state
	}
	return o, i.publish(ctx, w, &o)
}

// follow notes how far an import is. One that failed for good waits for another
// version.
func (o *Observation) follow(state job.State) error {
	o.Job = &state
	if state.Stage == job.Failed {
		return fault.Wrap(state.Err, fault.Invalid, reasonFailed, "%s", job.Explain(state.Err))
	}
	return nil
}

const reasonFailed = "ProvisioningFailed"

// publish sees to it that the file is in the registry.
func (i *Intake) publish(ctx context.Context, w Wish, o *Observation) error {
	found, err := i.Find(ctx, w)
	if err == nil && found != nil && found.Stale {
		found, err = nil, i.unpublish(ctx, w)
	}
	if err != nil {
		o.Unseen = fault.From(err)
		return err
	}
	if found != nil {
		o.Published = found
		i.Imports.Stop(w.UID) // done: forget it
		return i.dropUpload(w)
	}
	if o.Lost = i.Lost(w); o.Lost {
		return nil
	}
	if come, err := i.receive(w, o); !come || err != nil {
		return err
	}
	origin, err := i.origin(ctx, w)
	switch {
	case err != nil:
		o.Waits = fault.From(err)
		return err
	case origin.Copy != nil:
		return i.copy(ctx, w, *origin.Copy, o)
	}
	task := i.task(w)
	task.Source, task.Checksum, task.SourceUID = origin.File.Source, origin.File.Checksum, origin.File.SourceUID
	return o.follow(i.Imports.Start(task))
}

// Lost reports whether the file of a wish, which is not in the registry, was
// there.
func (i *Intake) Lost(w Wish) bool {
	last, known := i.Imports.Last(w.UID)
	return known && last.Published && last.Version == w.Version && !w.Anew
}

func (i *Intake) origin(ctx context.Context, w Wish) (Origin, error) {
	if i.isUpload(w) {
		return i.uploaded(w), nil
	}
	return i.Origins.Origin(ctx, w)
}

// Remove drops all that there is of a wish, whatever its version. False says
// that its import is still being stopped, of which Changed tells.
func (i *Intake) Remove(ctx context.Context, w Wish) (bool, error) {
	if !i.Imports.Stop(w.UID) {
		return false, nil
	}
	if err := i.dropUpload(w); err != nil {
		return true, err
	}
	if err := i.Imports.Clean(ctx, i.task(w)); err != nil {
		return true, classify(err)
	}
	return true, i.unpublish(ctx, w)
}

// task is the import of a wish, but for its file.
func (i *Intake) task(w Wish) job.Task {
	return job.Task{
		UID: w.UID, Version: w.Version, Repository: i.Registry.Prefix + w.Repository, Tag: w.UID, Changed: w.Changed,
	}
}
