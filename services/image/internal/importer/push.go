package importer

import (
	"context"
	"errors"
	"io"

	"orlop.dev/services/image/internal/dvcr"
)

// stream sends the content of the source to the registry as it is.
func (j *job) stream(ctx context.Context, content io.Reader) error {
	u, err := j.upload(ctx)
	if err != nil {
		return err
	}
	return j.send(ctx, u, content, func() error {
		if err := j.setUpload(u); err != nil {
			return err
		}
		return j.mark(ctx, u.Offset())
	})
}

// upload goes on with the upload of the checkpoint, or starts one.
func (j *job) upload(ctx context.Context) (*dvcr.Upload, error) {
	if c := j.checkpoint.Upload; c != nil {
		j.resumed = true
		return j.Target.Resume(ctx, *c)
	}
	u, err := j.Target.Start(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.setUpload(u); err != nil {
		return nil, err
	}
	if j.checkpoint.Staged != nil {
		return u, j.save(ctx)
	}
	// Saved as not resumable: until the first mark it is only to be dropped.
	resumable := j.checkpoint.Resumable
	j.checkpoint.Resumable = false
	err = j.save(ctx)
	j.checkpoint.Resumable = resumable
	return u, err
}

// send moves r into the upload, chunk by chunk, and notes what the blob will
// be. The checkpoint is left for the caller to save at the end.
func (j *job) send(ctx context.Context, u *dvcr.Upload, r io.Reader, mark func() error) error {
	for step := newStride(j.options.ChunkBytes); ; {
		done := step.begin()
		err := u.Append(ctx, r, step.bytes)
		if errors.Is(err, io.EOF) {
			return j.sent(u)
		}
		if err != nil {
			return err
		}
		if err := mark(); err != nil {
			return err
		}
		done()
	}
}

// sent notes what the upload is going to be committed as.
func (j *job) sent(u *dvcr.Upload) error {
	j.checkpoint.Blob = &dvcr.Blob{Digest: u.Digest(), Size: u.Offset()}
	return j.setUpload(u)
}

func (j *job) markUpload(ctx context.Context, u *dvcr.Upload) error {
	if err := j.setUpload(u); err != nil {
		return err
	}
	return j.save(ctx)
}

func (j *job) setUpload(u *dvcr.Upload) error {
	c, err := u.Checkpoint()
	if err != nil {
		return err
	}
	j.checkpoint.Upload = &c
	return nil
}

// commit ends the upload, unless an earlier attempt did.
func (j *job) commit(ctx context.Context) error {
	has, err := j.Target.HasBlob(ctx, j.checkpoint.Blob.Digest)
	if err != nil || has {
		return err
	}
	u, err := j.Target.Resume(ctx, *j.checkpoint.Upload)
	if err != nil {
		j.resumed = true
		return err
	}
	_, err = u.Commit(ctx)
	return err
}
