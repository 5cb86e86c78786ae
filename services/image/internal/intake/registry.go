package intake

import (
	"context"
	"errors"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
)

// lookWait bounds a look into the registry: users and other services wait for it.
const lookWait = 20 * time.Second

// Registry is where files are published.
type Registry struct {
	*dvcr.Registry
	// Host is the registry's host:port, for people.
	Host string
	// Prefix stands before the names of repositories: "team/".
	Prefix string
	// BlobPath finds the file of a blob where the registry's storage is on this
	// machine; nil where it isn't.
	BlobPath func(digest string) (path string, here bool)
}

// Location is the name of a wish's repository for people.
func (r Registry) Location(repository string) string { return r.Host + "/" + r.Prefix + repository }

// Published is a file as the registry has it. That, and nothing in a status, is
// what makes an image Ready.
type Published struct {
	dvcr.Artifact
	// Manifest is the digest of the artifact's manifest.
	Manifest string
	// Stale is set for what an earlier version of the wish has published, at the
	// moment when the wish was changed.
	Stale bool
}

// Blob tells another service where a published file is.
func (r Registry) Blob(repository string, found *Published) *imagev1.Blob {
	blob := &imagev1.Blob{
		RegistryUrl: r.Location(repository) + "@" + found.Manifest,
		Digest:      found.Disk.Digest.String(), Format: found.Format,
		StoredBytes: found.Disk.Size, VirtualBytes: found.VirtualBytes, Cdrom: found.CDROM,
	}
	if r.BlobPath == nil {
		return blob
	}
	if path, here := r.BlobPath(blob.GetDigest()); here {
		blob.Path = path
	}
	return blob
}

func (r Registry) repository(w Wish) (*dvcr.Repository, error) {
	return r.Registry.Repository(r.Prefix + w.Repository)
}

// Find looks for a wish's file in the registry; nil if it isn't there.
func (i *Intake) Find(ctx context.Context, w Wish) (*Published, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	repository, err := i.Registry.repository(w)
	if err != nil {
		return nil, err
	}
	artifact, manifest, err := repository.Get(ctx, w.UID)
	if failure.ReasonOf(err) == dvcr.ReasonNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	// The registry isn't asked: it would keep the blob for who asks, after the image.
	if i.Registry.BlobPath != nil {
		if _, there := i.Registry.BlobPath(artifact.Disk.Digest.String()); !there {
			return nil, nil
		}
	}
	// The first version can't have a predecessor.
	last, known := i.Imports.Last(w.UID)
	stale := w.Version > 1 && known && last.Version != w.Version
	return &Published{Artifact: artifact, Manifest: manifest.String(), Stale: stale}, nil
}

// Current is Find for those who only want what the wish asks for now.
func (i *Intake) Current(ctx context.Context, w Wish) (*Published, error) {
	found, err := i.Find(ctx, w)
	if err != nil || found == nil || found.Stale {
		return nil, err
	}
	return found, nil
}

// copy publishes what another repository has: its blob is mounted, so no data is
// moved. What was mounted and not yet published when a process died is mounted
// again, or garbage.
func (i *Intake) copy(ctx context.Context, w Wish, from Copy, o *Observation) error {
	if err := i.mount(ctx, w, from); err != nil {
		// Where the source went between the look at it and now, the next look at it
		// says so.
		err = classify(err)
		o.Unseen = fault.From(err)
		return err
	}
	var err error
	if o.Published, err = i.Find(ctx, w); err != nil {
		o.Unseen = fault.From(err)
	}
	return err
}

func (i *Intake) mount(ctx context.Context, w Wish, from Copy) error {
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	if err := i.Imports.Mark(ctx, i.task(w)); err != nil {
		return err
	}
	source, err := i.Registry.Registry.Repository(from.Repository)
	if err != nil {
		return err
	}
	target, err := i.Registry.repository(w)
	if err != nil {
		return err
	}
	if err := target.Mount(ctx, source, from.Artifact.Disk.Digest); err != nil {
		return err
	}
	if _, err = target.Push(ctx, w.UID, from.Artifact); err != nil {
		return err
	}
	return i.Imports.Publish(i.task(w))
}

// unpublish takes the manifest away, if there is one. The registry frees its
// space when it collects its garbage.
func (i *Intake) unpublish(ctx context.Context, w Wish) error {
	repository, err := i.Registry.repository(w)
	if err != nil {
		return err
	}
	_, manifest, err := repository.Get(ctx, w.UID)
	switch failure.ReasonOf(err) {
	case dvcr.ReasonNotFound:
		return nil
	case dvcr.ReasonNotAnImage:
		return classify(repository.Delete(ctx, w.UID))
	}
	if err != nil {
		return classify(err)
	}
	return classify(repository.DeleteManifest(ctx, manifest))
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
