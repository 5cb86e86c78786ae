package virtualimage

import (
	"context"
	"errors"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
)

// lookWait bounds a look into the registry: users and other services wait for it.
const lookWait = 20 * time.Second

// Registry is where images are published.
type Registry struct {
	*dvcr.Registry
	// Host is the registry's host:port, for people.
	Host string
	// Prefix stands before the names of repositories: "team/".
	Prefix string
}

// published is an image as the registry has it. That, and nothing in a status,
// is what makes an image Ready.
type published struct {
	dvcr.Artifact
	// manifest is the digest of the artifact's manifest.
	manifest string
	// stale is set for what an import of an earlier spec has published, at the
	// moment when the spec was changed.
	stale bool
}

// find looks for an image in the registry; nil if it isn't there.
func (r *Reconciler[T]) find(ctx context.Context, image T) (*published, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	meta := image.GetMetadata()
	repository, err := r.Registry.Repository(r.repository(meta))
	if err != nil {
		return nil, err
	}
	artifact, manifest, err := repository.Get(ctx, meta.GetUid())
	if failure.ReasonOf(err) == dvcr.ReasonNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	// The first spec can't have a predecessor.
	last, known := r.Imports.Last(meta.GetUid())
	stale := meta.GetGeneration() > 1 && known && last != meta.GetGeneration()
	return &published{Artifact: artifact, manifest: manifest.String(), stale: stale}, nil
}

// current is find for those who only want what the spec asks for.
func (r *Reconciler[T]) current(ctx context.Context, image T) (*published, error) {
	found, err := r.find(ctx, image)
	if err != nil || found == nil || found.stale {
		return nil, err
	}
	return found, nil
}

// unpublish takes an image's manifest away, if there is one. The registry frees
// its space when it collects its garbage.
func (r *Reconciler[T]) unpublish(ctx context.Context, image T) error {
	meta := image.GetMetadata()
	repository, err := r.Registry.Repository(r.repository(meta))
	if err != nil {
		return err
	}
	_, manifest, err := repository.Get(ctx, meta.GetUid())
	switch failure.ReasonOf(err) {
	case dvcr.ReasonNotFound:
		return nil
	case dvcr.ReasonNotAnImage:
		return classify(repository.Delete(ctx, meta.GetUid()))
	}
	if err != nil {
		return classify(err)
	}
	return classify(repository.DeleteManifest(ctx, manifest))
}

// location is an image's name in the registry.
func (r *Reconciler[T]) location(image resource.Object) string {
	return r.Registry.Host + "/" + r.repository(image.GetMetadata())
}

// classify is the edge from the failures of the packages below to faults.
func classify(err error) error {
	failed, ok := errors.AsType[*failure.Error](err)
	if !ok {
		return err
	}
	class := fault.Transient
	if failed.Class == failure.Terminal {
		class = fault.Invalid
	}
	return fault.Wrap(err, class, string(failed.Reason), "%s", failed.Message)
}
