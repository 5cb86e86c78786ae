package dvcr

import (
	"context"
	"encoding"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"orlop.dev/services/image/internal/failure"
)

// ReasonNoSpace says that the registry's file system is full.
const ReasonNoSpace failure.Reason = "NoSpaceInRegistry"

const (
	// pieceBytes and pieces bound what is in memory between the source, the file
	// and the hash, which work at the same time.
	pieceBytes = 256 << 10
	pieces     = 16
	// writeBackBytes is after how many the kernel is told to begin to write, so
	// that little is left to wait for at a checkpoint.
	writeBackBytes = 8 << 20
)

// folder is where the registry keeps the upload; "" if that is not known, or the
// registry keeps it otherwise.
func (u *Upload) folder() string {
	uploadDir := u.repository.registry.options.UploadDir
	if uploadDir == nil {
		return ""
	}
	location, err := url.Parse(u.location)
	if err != nil {
		return ""
	}
	dir := uploadDir(u.repository.name, path.Base(location.Path))
	if info, err := os.Stat(uploadData(dir)); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return dir
}

// uploadData is the file of an upload's bytes in its folder.
func uploadData(dir string) string { return filepath.Join(dir, "data") }

// rewind takes away what an upload has beyond its checkpoint.
func rewind(dir string, offset int64) error {
	file := uploadData(dir)
	info, err := os.Stat(file)
	if err != nil || info.Size() <= offset {
		return local(err)
	}
	// A file that Take brought is somebody else's, too.
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return local(replaceEmpty(file))
	}
	return local(os.Truncate(file, offset))
}

func replaceEmpty(file string) error {
	temporary := file + ".new"
	if err := os.WriteFile(temporary, nil, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

// write is Append by the registry's file.
func (u *Upload) write(ctx context.Context, dir string, r io.Reader, n int64) error {
	file, err := os.OpenFile(uploadData(dir), os.O_WRONLY, 0)
	if err != nil {
		return local(err)
	}
	defer file.Close()
	p := &pipeline{file: file, hash: u.hash, offset: u.offset}
	err = p.run(ctx, r, n)
	ended := errors.Is(err, io.EOF)
	if err != nil && !ended {
		return err
	}
	if ended && p.offset == u.offset {
		return io.EOF
	}
	if err := file.Sync(); err != nil {
		return local(err)
	}
	u.offset = p.offset
	return err
}

// Take makes a file the whole of an upload that has nothing yet, without moving
// its bytes. False says that this can't be done here: Append it. The file must be
// durable, and stay as it is. It is read once, for its hash; cancelling ctx
// stops that.
func (u *Upload) Take(ctx context.Context, file *os.File, size int64) (bool, error) {
	dir := u.folder()
	if dir == "" || u.offset != 0 || u.ahead != 0 {
		return false, nil
	}
	temporary := uploadData(dir) + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, local(err)
	}
	if err := os.Link(file.Name(), temporary); err != nil {
		return false, nil //nolint:nilerr // Another file system, or one without links: copying works.
	}
	if err := os.Rename(temporary, uploadData(dir)); err != nil {
		return false, local(err)
	}
	p := &pipeline{hash: u.hash}
	err := p.run(ctx, io.NewSectionReader(file, 0, size), size)
	if err == nil && p.offset != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, err
	}
	u.offset = size
	return true, nil
}

// present prepares the commit of an upload whose bytes didn't pass through the
// registry: the state of their hash, which spares it to read them all again, and
// a location that knows how many they are.
func (u *Upload) present(ctx context.Context, dir string) error {
	state, err := u.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	states := filepath.Join(dir, "hashstates", "sha256")
	if err := os.MkdirAll(states, 0o700); err != nil {
		return local(err)
	}
	if err := os.WriteFile(filepath.Join(states, strconv.FormatInt(u.offset, 10)), state, 0o600); err != nil {
		return local(err)
	}
	registry := u.repository.registry
	said, err := u.repository.call(ctx, http.MethodGet, registry.absolute(u.location), http.StatusNoContent)
	if err != nil {
		return err
	}
	return u.move(said)
}

// local classifies errors of the registry's own file system.
func local(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return lost("its file is gone")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return failure.Temporaryf(ReasonNoSpace, err, "no space is left in the registry")
	}
	return failure.Temporaryf(ReasonUnavailable, err, "the registry's storage can't be written")
}

// readLocal reads a part of a blob from its file; false if that isn't here.
func (b *blobReader) readLocal(buf []byte, offset int64) (int, bool, error) {
	blobPath := b.repository.registry.options.BlobPath
	if blobPath == nil {
		return 0, false, nil
	}
	name, ok := blobPath(b.blob.Digest.String())
	if !ok {
		return 0, false, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return 0, false, nil // collected a moment ago: the registry says so
	}
	defer file.Close()
	n, err := file.ReadAt(buf, offset)
	return n, true, err
}

// startWriting begins to write a part of the file back. It is advice: what it
// can't do, Sync does.
func startWriting(file *os.File, offset, n int64) {
	_ = unix.SyncFileRange(int(file.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}
