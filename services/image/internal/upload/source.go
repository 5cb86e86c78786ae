package upload

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// ReasonLost says that a file that had arrived isn't there any more.
const ReasonLost failure.Reason = "UploadLost"

// Source is an owner's file, for its import. It can be read once the upload is
// Complete and until it is dropped, from any offset.
func (s *Store) Source(owner string) importer.Source { return file{store: s, owner: owner} }

type file struct {
	store *Store
	owner string
}

// Open implements importer.Source.
func (f file) Open(_ context.Context, offset int64, v source.Validator) (importer.Stream, error) {
	one := f.store.slot(f.owner)
	if one == nil || one.state().Stage != Complete {
		return nil, failure.Temporaryf(ReasonLost, nil, "the uploaded file isn't there")
	}
	if offset > 0 && v.ETag != one.tag() {
		return nil, failure.Temporaryf(source.ReasonChanged, nil, "another file was uploaded")
	}
	opened, err := os.Open(one.partPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failure.Temporaryf(ReasonLost, err, "the uploaded file isn't there")
	}
	if err != nil {
		return nil, failure.Temporaryf(failure.Reason(ReasonStorage), err, "the uploaded file can't be read")
	}
	size := one.state().LengthBytes
	return &stream{
		Reader: io.NewSectionReader(opened, offset, size-offset), file: opened,
		size: size, validator: source.Validator{ETag: one.tag()},
	}, nil
}

// stream is the file being read.
type stream struct {
	io.Reader
	file      *os.File
	size      int64
	validator source.Validator
}

// Close implements importer.Stream.
func (s *stream) Close() error { return s.file.Close() }

// Size implements importer.Stream.
func (s *stream) Size() int64 { return s.size }

// Validator implements importer.Stream.
func (s *stream) Validator() source.Validator { return s.validator }
