package importer

import (
	"bufio"
	"context"
	"errors"
	"io"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

// fetch reads the source to its end: a raw disk into the staging file,
// anything else into the registry.
func (j *job) fetch(ctx context.Context) error {
	stream, err := j.Source.Open(ctx, j.checkpoint.Offset, j.checkpoint.Validator)
	if err != nil {
		return err
	}
	defer stream.Close()
	j.checks = j.Checksum.checks()
	if j.resumed {
		if err := j.checks.restore(j.checkpoint.Checksums); err != nil {
			return failure.Temporaryf(source.ReasonCannotBeResumed, err, "the import can't go on")
		}
	}
	counted := newMeter(stream, j, stream.Size())
	// Peeking stays below the checksums, so that they and the bytes handed on
	// are in step at each checkpoint.
	head := bufio.NewReaderSize(counted, diskimage.HeadBytes)
	file := j.checks.reader(head)
	content, done, err := j.open(head, file)
	if err != nil {
		return err
	}
	defer done()
	j.checkpoint.Validator = stream.Validator()
	if j.checkpoint.Format == diskimage.Raw {
		err = j.stage(ctx, content)
	} else {
		err = j.stream(ctx, content)
	}
	if err != nil {
		return err
	}
	return j.finish(ctx, file, counted)
}

// finish judges the source after its last byte, and only then makes the step
// count.
func (j *job) finish(ctx context.Context, file io.Reader, counted *meter) error {
	// An unpacker may stop before what stands behind its last stream.
	if _, err := io.Copy(io.Discard, file); err != nil {
		return err
	}
	counted.tell()
	if err := j.checks.verify(); err != nil {
		return err
	}
	j.checkpoint.Resumable = true
	return j.save(ctx)
}

// open finds out what the file is, and returns what is in it. A resumed file
// is known, and plain.
func (j *job) open(head *bufio.Reader, file io.Reader) (io.Reader, func(), error) {
	done := func() {}
	if j.resumed {
		return file, done, nil
	}
	start, err := peek(head)
	if err != nil {
		return nil, nil, err
	}
	content := file
	kind := decompress.Detect(start)
	if kind != decompress.None {
		unpacked, err := decompress.NewReader(file, kind, j.Limits.File())
		if err != nil {
			return nil, nil, err
		}
		done = func() { unpacked.Close() }
		buffered := bufio.NewReaderSize(unpacked, diskimage.HeadBytes)
		if start, err = peek(buffered); err != nil {
			done()
			return nil, nil, err
		}
		content = buffered
	}
	format, err := diskimage.Screen(start, j.Limits)
	if err != nil {
		done()
		return nil, nil, err
	}
	j.checkpoint = Checkpoint{Resumable: kind == decompress.None, Format: format}
	return content, done, nil
}

// peek returns the first bytes, fewer if the file is shorter.
func peek(r *bufio.Reader) ([]byte, error) {
	start, err := r.Peek(diskimage.HeadBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(start) == 0 {
		return nil, failure.Terminalf(diskimage.ReasonEmpty, "the file is empty")
	}
	return start, nil
}

// mark stores how far the source is durable, if it can be resumed there.
func (j *job) mark(ctx context.Context, offset int64) error {
	// What can't be read again from here is of no use to another process but
	// for the upload's name, which is saved at its start.
	if !j.checkpoint.Resumable || j.checkpoint.Validator.IsZero() {
		return nil
	}
	states, err := j.checks.save()
	if err != nil {
		return err
	}
	j.checkpoint.Offset, j.checkpoint.Checksums = offset, states
	return j.save(ctx)
}
