package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
)

// job is one import at work.
type job struct {
	Request
	options    Options
	checkpoint Checkpoint
	checks     checks
	// resumed is set when this run went on from a checkpoint.
	resumed bool
	// at is how far the job is: a change is progress.
	at position
}

type position struct{ source, upload int64 }

// run does what is left to do, from the checkpoint on. Each step leaves a
// checkpoint at which the next begins.
func (j *job) run(ctx context.Context) (Result, error) {
	if !j.checkpoint.Resumable && j.checkpoint.Upload != nil {
		if err := j.abandon(ctx); err != nil {
			return Result{}, err
		}
	}
	j.resumed = j.checkpoint.Resumable
	if j.checkpoint.Staged == nil && j.checkpoint.Blob == nil {
		if err := j.fetch(ctx); err != nil {
			return Result{}, err
		}
	}
	if j.checkpoint.Blob == nil {
		if err := j.pushStaged(ctx); err != nil {
			return Result{}, err
		}
	}
	if err := j.commit(ctx); err != nil {
		return Result{}, err
	}
	return j.publish(ctx)
}

// publish inspects the blob where it is stored and gives it its name.
func (j *job) publish(ctx context.Context) (Result, error) {
	blob := *j.checkpoint.Blob
	info, err := diskimage.Inspect(ctx, j.Target.Open(ctx, blob), blob.Size, j.Limits)
	if err != nil {
		return Result{}, err
	}
	if want := j.stored(); info.Format != want {
		return Result{}, failure.Terminalf(diskimage.ReasonCorrupt, "the image began as %s, but is stored as %s", want, info.Format)
	}
	artifact := dvcr.Artifact{
		Disk: blob, Format: string(info.Format), VirtualBytes: info.VirtualBytes, CDROM: info.CDROM, SourceUID: j.SourceUID,
	}
	manifest, err := j.Target.Push(ctx, j.Tag, artifact)
	if err != nil {
		return Result{}, err
	}
	return Result{
		Digest: manifest, Disk: blob,
		Format: info.Format, SourceFormat: j.checkpoint.Format, MediaType: artifact.MediaType(),
		StoredBytes: blob.Size, VirtualBytes: info.VirtualBytes, CDROM: info.CDROM,
	}, nil
}

// stored is the format in which the image is kept: raw disks become qcow2.
func (j *job) stored() diskimage.Format {
	if j.checkpoint.Format == diskimage.Raw {
		return diskimage.QCOW2
	}
	return j.checkpoint.Format
}

func (j *job) load(ctx context.Context) error {
	c, err := j.Checkpoints.Load(ctx)
	if err != nil {
		return fmt.Errorf("importer: load checkpoint: %w", err)
	}
	j.checkpoint = c
	return nil
}

func (j *job) save(ctx context.Context) error {
	j.at = position{source: j.checkpoint.Offset}
	if u := j.checkpoint.Upload; u != nil {
		j.at.upload = u.Offset
	}
	if err := j.Checkpoints.Save(ctx, j.checkpoint); err != nil {
		return fmt.Errorf("importer: save checkpoint: %w", err)
	}
	return nil
}

// clear drops the staging file and the checkpoint.
func (j *job) clear(ctx context.Context) error {
	if err := os.Remove(j.stagingPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return staging(err)
	}
	j.checkpoint = Checkpoint{}
	return j.Checkpoints.Clear(ctx)
}

// abandon drops the upload, and what it was committed as, too.
func (j *job) abandon(ctx context.Context) error {
	if u := j.checkpoint.Upload; u != nil {
		if err := j.Target.Cancel(ctx, *u); err != nil {
			return err
		}
	}
	if err := j.release(ctx); err != nil {
		return err
	}
	return j.clear(ctx)
}

// release lets the registry have the blob's space back, unless an image of an
// earlier import is made of the same.
func (j *job) release(ctx context.Context) error {
	blob := j.checkpoint.Blob
	if blob == nil || j.Tag == "" {
		return nil
	}
	published, _, err := j.Target.Get(ctx, j.Tag)
	switch failure.ReasonOf(err) {
	case dvcr.ReasonNotFound:
		return j.Target.Release(ctx, blob.Digest)
	case dvcr.ReasonNotAnImage:
		return nil
	}
	if err != nil || published.Disk.Digest == blob.Digest {
		return err
	}
	return j.Target.Release(ctx, blob.Digest)
}

func (j *job) stagingPath() string {
	return filepath.Join(j.options.StagingDir, j.ID+".qcow2")
}
