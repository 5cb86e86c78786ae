package importer

import (
	"context"
	"errors"
	"io"
	"os"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/sparse"
)

// stage writes a raw disk into the staging file, without its zeros.
func (j *job) stage(ctx context.Context, disk io.Reader) error {
	file, err := j.openStaging()
	if err != nil {
		return staging(err)
	}
	defer file.Close()
	w, err := j.sparseWriter(file)
	if err != nil {
		return staging(err)
	}
	for step := newStride(j.options.ChunkBytes); ; {
		done := step.begin()
		err := w.Append(ctx, disk, step.bytes)
		if errors.Is(err, io.EOF) {
			return j.staged(file, w)
		}
		if err != nil {
			return staging(err)
		}
		if err := j.markStaged(ctx, file, w); err != nil {
			return err
		}
		done()
	}
}

// openStaging keeps the file of an import that goes on, and only that.
func (j *job) openStaging() (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE
	if j.checkpoint.Sparse == nil {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(j.stagingPath(), flags, 0o600)
}

func (j *job) sparseWriter(file *os.File) (*sparse.Writer, error) {
	if j.checkpoint.Sparse == nil {
		return sparse.NewWriter(file, j.Limits.Disk()), nil
	}
	// An empty file reads as holes: a lost one must not pass for that.
	if err := j.holds(file, j.checkpoint.Sparse.StoredBytes()); err != nil {
		return nil, err
	}
	return sparse.Resume(file, j.Limits.Disk(), *j.checkpoint.Sparse)
}

// holds checks that the staging file has what was made durable in it.
func (j *job) holds(file *os.File, bytes int64) error {
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	if stat.Size() < bytes {
		j.resumed = true
		return failure.Temporaryf(ReasonStagingLost, nil, "the staging file has %d bytes of %d", stat.Size(), bytes)
	}
	return nil
}

func (j *job) markStaged(ctx context.Context, file *os.File, w *sparse.Writer) error {
	if !j.checkpoint.Resumable || j.checkpoint.Validator.IsZero() {
		return nil
	}
	state, err := w.Save()
	if err != nil {
		return staging(err)
	}
	if err := file.Sync(); err != nil {
		return staging(err)
	}
	j.checkpoint.Sparse = &state
	return j.mark(ctx, state.Offset)
}

// staged makes the staging file whole and durable.
func (j *job) staged(file *os.File, w *sparse.Writer) error {
	result, err := w.Finish()
	if err != nil {
		return staging(err)
	}
	if err := file.Sync(); err != nil {
		return staging(err)
	}
	j.checkpoint.Sparse, j.checkpoint.Staged = nil, &result
	return nil
}

// pushStaged sends the staging file to the registry.
func (j *job) pushStaged(ctx context.Context) error {
	file, err := os.OpenFile(j.stagingPath(), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return staging(err)
	}
	defer file.Close()
	if err := j.holds(file, j.checkpoint.Staged.StoredBytes); err != nil {
		return staging(err)
	}
	u, err := j.upload(ctx)
	if err != nil {
		return err
	}
	if err := j.deliver(ctx, u, file); err != nil {
		return staging(err)
	}
	return j.save(ctx)
}

// deliver makes the staging file the upload's: as it is, where the registry can
// take files, else by its bytes.
func (j *job) deliver(ctx context.Context, u *dvcr.Upload, file *os.File) error {
	size := j.checkpoint.Staged.StoredBytes
	taken, err := u.Take(ctx, file, size)
	if err != nil {
		return err
	}
	if taken {
		return j.sent(u)
	}
	rest := io.NewSectionReader(file, u.Offset(), size-u.Offset())
	return j.send(ctx, u, rest, func() error { return j.markUpload(ctx, u) })
}
